"""Errors a user can cause, worded so that they can be mended. Knows nothing about the rest of worldsim."""

from __future__ import annotations


class UsageError(ValueError):
    """A mistake in what the user gave: one paragraph saying what, the value got, what is allowed and the likely fix.

    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, argument: str, *, got: object, allowed: str, fix: str) -> None:
        self.argument = argument
        self.got = got
        self.allowed = allowed
        self.fix = fix
        super().__init__(f"{argument}: got {got!s}, but allowed is {allowed}. Likely fix: {fix}")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.argument, str(self.got), self.allowed, self.fix)


def _rebuild(argument: str, got: str, allowed: str, fix: str) -> UsageError:
    """Make the error anew after it crossed a process border (keyword-only arguments defeat the default pickling)."""
    return UsageError(argument, got=got, allowed=allowed, fix=fix)


def suggestion(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Return a sentence that offers the known names, with the closest one first if there is one."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    listing = ", ".join(known)
    return f"did you mean {close[0]!r}? Known: {listing}" if close else f"use one of: {listing}"
