"""Repositories of the Hugging Face hub: their names, what they hold, a local snapshot of it, and the client's errors as genin's.

    owner/name              its main branch
    owner/name@revision     a branch, a tag or a commit

A repository that does not exist, is gated or lacks the revision is an error at once; where the hub cannot be reached the result is
None, and the caller decides what to do.

Not here: which files are needed (`genin.hub.model`, `data.hub`).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genin.runtimes.errors import InputError, MissingExtraError
from genin.runtimes.files import REFUSALS
from genin.runtimes.wording import quoted

Kind = Literal["model", "dataset"]
NAME = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>\w[\w./+-]*))?")
REFUSED = (401, 403)
SILENCE_S = 30.0  # after which the hub cannot be reached
CANNOT_WRITE = (*REFUSALS, errno.EACCES)


class OfflineError(InputError):
    """The hub cannot be reached. The remedy says which files to put into a folder by hand (`folder`, say), whose path then takes
    the place of the `name` that was asked for."""

    def __init__(self, what: str, files: str, *, name: str, folder: str) -> None:
        super().__init__(what, remedy=f"{files}; and give its path, {folder}")
        self.files, self.name, self.folder = files, name, folder

    def for_command(self, arguments: Sequence[str]) -> str:
        """The line, ending in the command that was given, with the folder in the place of the name."""
        if not any(self.name in argument for argument in arguments):
            return str(self)
        command = ["genin", *(argument.replace(self.name, self.folder) for argument in arguments)]
        return f"{self.what}; {self.files}; and run: {' '.join(map(quoted, command))}"


class NoRepositoryError(InputError):
    """The hub has no such repository, or does not show it."""


@dataclass(frozen=True)
class HubName:
    """A repository, and the revision of it that is meant; None is its main branch."""

    repository: str
    kind: Kind
    revision: str | None = None

    @classmethod
    def parse(cls, text: str, kind: Kind) -> HubName:
        """Errors: InputError if it is not such a name."""
        found = NAME.fullmatch(text)
        if found is None:
            raise InputError("not a name on the hub", where=text, remedy="write owner/name, or owner/name@revision")
        return cls(found["repository"], kind, found["revision"])

    @property
    def short(self) -> str:
        """What a folder for it may be called."""
        return self.repository.rpartition("/")[2]

    @property
    def address(self) -> str:
        """Its page, which is the same for all revisions."""
        return f"https://huggingface.co/{'datasets/' if self.kind == 'dataset' else ''}{self.repository}"

    def __str__(self) -> str:
        return self.repository + (f"@{self.revision}" if self.revision else "")


def may_be_on_the_hub(text: str) -> bool:
    """Whether a name that is not a local path may be a repository's: a name inside an existing folder is a mistyped path."""
    return NAME.fullmatch(text) is not None and not Path(text.partition("/")[0]).is_dir()


def list_files(name: HubName) -> list[str] | None:
    """All files of the repository; None without a network. Errors: InputError, NoRepositoryError among them."""
    hub = _client()
    try:
        with _limited():
            found = hub.HfApi().list_repo_files(name.repository, revision=name.revision, repo_type=name.kind)
    except (OSError, ValueError) as error:
        _refuse(name, error)
        return None
    return list(found)


def snapshot(name: HubName, files: Sequence[str]) -> Path | None:
    """The folder with these files of the repository, downloaded where it lacks them; None without a network. Errors: InputError."""
    hub, patterns = _client(), [_literal(file) for file in files]
    options = {"revision": name.revision, "repo_type": name.kind, "allow_patterns": patterns}
    try:
        with _limited():
            found = Path(hub.snapshot_download(name.repository, **options))
    except (OSError, ValueError) as error:
        _refuse(name, error)
        return None
    # Where the network fails midway the client answers with what it has.
    return found if all((found / file).is_file() for file in files) else None


def cached(name: HubName) -> Path | None:
    """The folder of what was downloaded before, perhaps only some of the files; None if nothing was."""
    hub = _client()
    try:
        return Path(
            hub.snapshot_download(name.repository, revision=name.revision, repo_type=name.kind, local_files_only=True)
        )
    except (OSError, ValueError):
        return None


# --- the client ------------------------------------------------------------------------------------------------------


def _client() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise MissingExtraError("huggingface_hub", "hub") from error
    return huggingface_hub


@contextmanager
def _limited() -> Iterator[None]:
    """Within it the client does not wait for ever for a hub that says nothing: some of its requests have no limit of their own."""
    from huggingface_hub.utils import get_session

    session = get_session()  # this thread's; downloads in others have limits
    request = session.request

    def limited(*given: Any, timeout: Any = None, **options: Any) -> Any:
        return request(*given, timeout=SILENCE_S if timeout is None else timeout, **options)

    session.request = limited
    try:
        yield
    finally:
        session.request = request


def _literal(file: str) -> str:
    """A file's name as a pattern that means this file alone."""
    return re.sub(r"([*?\[])", r"[\1]", file)


def _refuse(name: HubName, error: BaseException) -> None:
    """Raise the error that the hub's answer means; return where there was none (no network, a failure of the hub's own)."""
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    for cause in _causes(error):
        where = f"hub:{name}"
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(cause, RevisionNotFoundError):
            remedy = f"leave out @{name.revision} for the main branch, or see {name.address}"
            raise InputError(f"the hub's {name.kind} has no such revision", where=where, remedy=remedy) from error
        if isinstance(cause, DisabledRepoError):
            raise InputError(f"the hub has disabled this {name.kind}", where=where, remedy="use another") from error
        if isinstance(cause, RepositoryNotFoundError) and not isinstance(cause, GatedRepoError):
            what = (
                "neither a local path nor on the hub, or private there (then: huggingface-cli login, or set HF_TOKEN)"
            )
            raise NoRepositoryError(what, where=where) from error
        if isinstance(cause, GatedRepoError) or status in REFUSED:
            remedy = f"accept its terms at {name.address}, then: huggingface-cli login (or set HF_TOKEN)"
            raise InputError(
                f"the hub gives this {name.kind} only to those who have accepted its terms", where=where, remedy=remedy
            ) from error
        if isinstance(cause, OSError) and cause.errno in CANNOT_WRITE:
            remedy = "free some space, or name another folder with HF_HOME"
            raise InputError(
                f"the hub's cache cannot be written ({cause.strerror})", where=where, remedy=remedy
            ) from error
        if isinstance(cause, HFValidationError):
            raise InputError("not a name on the hub", where=str(name), remedy="write owner/name") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
