# cython: language_level=3
"""Which instances can be written as the name of their class and their attributes, without pickle, and how they are made of that.

An instance is plain if its class can be imported, is written in Python, and leaves to `object` how instances are made, pickled and
unpickled: all that pickle does then is to look the class up, to make an empty instance and to fill its `__dict__`, or its slots.
Dataclasses are, as a rule.
"""

import copyreg
import io
import pickle
import types
from multiprocessing.reduction import ForkingPickler

cimport cython
from cpython.object cimport PyObject

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        unsigned int tp_version_tag
    unsigned long Py_TPFLAGS_HEAPTYPE
    unsigned long PyType_GetFlags(PyTypeObject *) noexcept
    PyObject *PyImport_GetModuleDict() except NULL
    PyObject *PyDict_GetItemWithError(PyObject *, object) except? NULL
    PyTypeObject *Py_TYPE(object) noexcept

cdef extern from *:
    """
    /* cls.__new__(cls), as pickle does it: what the metaclass has to say of it is not asked. */
    static inline PyObject *rp_new_instance(PyObject *cls, PyObject *nothing)
    {
        newfunc make = PyType_Check(cls) ? ((PyTypeObject *)cls)->tp_new : NULL;
        if (make != NULL)
            return make((PyTypeObject *)cls, nothing, NULL);
        PyErr_Format(PyExc_TypeError, "cannot create '%.100s' instances", PyType_Check(cls) ? ((PyTypeObject *)cls)->tp_name
                                                                                           : Py_TYPE(cls)->tp_name);
        return NULL;
    }
    """
    object rp_new_instance(object, object)

# A class with one of these has a way of its own.
cdef frozenset OWN_WAYS = frozenset([
    "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__", "__new__",
    "__getattribute__", "__getattr__", "__class__",
])
# A power of two. Classes that fall on the same place cost time only.
cdef enum:
    PLACES = 64
cdef list known = [None] * PLACES


@cython.final
cdef class Plain:
    """What is known of the instances of a class, as long as it is as it was (`version`). module: None if they are not plain.
    slots: None if their attributes are in a `__dict__`; to look one up runs no code."""


cdef unsigned int version_of(object cls) noexcept:
    """A number that no other class has, nor this one after a change; 0: there is none."""
    return (<PyTypeObject *>cls).tp_version_tag


cdef Plain plain_of(object value):
    """What is known of the value's class, if the value may be plain; else None. Its attributes are the caller's to look at."""
    cdef PyTypeObject *cls = Py_TYPE(value)
    cdef Plain plain
    if not PyType_GetFlags(cls) & Py_TPFLAGS_HEAPTYPE:
        return None
    plain = <Plain>known[(<size_t>cls >> 5) % PLACES]
    if plain is None or plain.cls != <void *>cls or plain.version != version_of(<object>cls) or plain.version == 0:
        plain = learn(value, <object>cls)
    if plain.module is None or <object>cls in copyreg.dispatch_table or <object>cls in ForkingPickler._extra_reducers:
        return None
    return plain if attribute_of(plain.module, plain.name) is <object>cls else None


cdef Plain learn(object value, object cls):
    cdef Plain plain = Plain.__new__(Plain)
    # A class that changes all the time is out of versions: nothing can be known of it.
    if is_plain(value, cls, plain) and version_of(cls):
        plain.module, plain.name = cls.__module__, cls.__qualname__
    plain.cls = <void *>cls
    plain.version = version_of(cls)
    known[(<size_t>plain.cls >> 5) % PLACES] = plain
    return plain


cdef bint is_plain(object value, object cls, Plain plain) except -1:
    """Whether instances are plain; their slots are then noted."""
    if type(cls.__module__) is not str or type(cls.__qualname__) is not str or "." in cls.__qualname__:
        return False
    for base in cls.__mro__[:-1]:
        names = type.__dict__["__dict__"].__get__(base)
        if not OWN_WAYS.isdisjoint(names):
            return False
        if type(names.get("__dict__")) not in (types.NoneType, types.GetSetDescriptorType):
            return False
    try:
        # A class that is written in C and holds more than attributes refuses here.
        reduced = value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        # One that a subclass has again is there once for each.
        slots = tuple(dict.fromkeys(copyreg._slotnames(cls))) or None
        if slots is None:
            attributes = value.__dict__
        elif cls.__dictoffset__ or any(type(getattr(cls, name)) is not types.MemberDescriptorType for name in slots):
            return False
        else:
            attributes = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    except Exception:
        return False
    plain.slots = slots
    state = None if not attributes else attributes if slots is None else (None, attributes)
    return type(attributes) is dict and reduced == (copyreg.__newobj__, (cls,), state, None, None)


cdef object attribute_of(object module, object name):
    """The attribute of an imported module, or None."""
    cdef PyObject *found = PyDict_GetItemWithError(PyImport_GetModuleDict(), module)
    return None if found == NULL else getattr(<object>found, name, None)


@cython.final
cdef class Layout:
    """What a header says, read once; and what is known of the class that its name last meant."""

    cdef object empty(self):
        """A new instance without attributes, made as pickle makes one."""
        cls = attribute_of(self.module, self.name)
        if not isinstance(cls, type):
            # Imports the module if need be, and raises what unpickling raises.
            cls = pickle.Unpickler(io.BytesIO(), fix_imports=False).find_class(self.module, self.name)
        instance = rp_new_instance(cls, ())
        if self.cls != <void *>cls or self.version != version_of(cls) or self.version == 0:
            self.by_setstate = hasattr(instance, "__setstate__")
            self.cls = <void *>cls
            self.version = version_of(cls)
        return instance
