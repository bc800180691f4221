"""How a worker calls the function of a map: StopIteration of a task must not look like the end of an iterator."""

cdef object call_item(object function, object value)
cdef object call_star(object function, object value)
cdef list call_chunk(object function, list values, bint star)
