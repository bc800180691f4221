"""Which instances can be written without pickle, and how they are made: see _instances.pyx."""

cdef class Plain:
    cdef object module, name  # of the class; exact strings
    cdef tuple slots          # their names, or None
    cdef tuple keys           # of the attributes that `header` is for; exact strings
    cdef bytes header         # the codec's, or None
    cdef void *cls            # never followed
    cdef unsigned int version

cdef class Layout:
    cdef bytes header
    cdef object module, name  # of the class
    cdef tuple keys           # of the attributes
    cdef bint slotted
    cdef bint by_setstate     # the class wants to have the attributes for itself
    cdef void *cls            # never followed
    cdef unsigned int version
    cdef object empty(self)

cdef Plain plain_of(object value)
