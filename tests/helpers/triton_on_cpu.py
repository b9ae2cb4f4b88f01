"""Triton's interpreter, which runs kernels on a CPU as NumPy. conftest.py asks for it: it must be before Triton is imported."""

from __future__ import annotations


def interpret() -> None:
    """The interpreter of Triton 3.6 takes one-element arrays for numbers, which NumPy 2.4
    no longer does."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor, scope) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched
