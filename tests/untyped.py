"""Functions as they run for users, whose types nobody checks: the errors are then their own."""

import inspect


def untyped(function):
    """The function without the check of its types that the tests switch on."""
    return inspect.unwrap(function)
