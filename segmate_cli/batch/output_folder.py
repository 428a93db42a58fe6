"""A batch's output folder: made, locked, and held to one configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmate_cli import files
from segmate_cli.batch.locks import locked
from segmate_cli.batch.records import STATE_FOLDER, Record, make_folder
from segmate_cli.errors import OutputError, OutputExistsError

# Workers of a killed driver are gone within a second.
_LOCK_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``number`` (from 1) of ``of`` parts."""

    number: int
    of: int

    @property
    def suffix(self) -> str:
        """What its files have in their names."""
        return f".shard-{self.number}-of-{self.of}"


@contextmanager
def opened(out: Path, shard: Shard | None, say: Callable[[str], None]) -> Iterator[Path]:
    """Make and lock an output folder; gives the folder of its state.

    Shards of one batch may be at work in it together. ``say`` is told where there are no locks.

    Raises:
        TakenError: Another batch has it.
        OutputError: It cannot be made or written to.
    """
    state = out / STATE_FOLDER
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; give a folder.")
    make_folder(state)
    with ExitStack() as stack:
        lock = locked(state / "lock", _LOCK_SECONDS, shared=shard is not None)
        if not stack.enter_context(lock):
            say(f"{out}: its file system knows no locks; see that no second batch works there.")
        if shard is not None:
            stack.enter_context(locked(state / f"lock{shard.suffix}", _LOCK_SECONDS))
        else:
            for stale in (*out.glob(".*.part"), *state.glob("worker-*.log")):
                with suppress(OSError):
                    stale.unlink()
        yield state


def remember_configuration(state: Path, config_sha256: str, config: dict[str, Any]) -> None:
    """Write down what a configuration's hash stands for."""
    place = state / "configurations" / f"{config_sha256}.json"
    if not place.exists():
        make_folder(place.parent)
        files.write_text(place, json.dumps(config, indent=1, sort_keys=True) + "\n")


def check_configuration(
    out: Path, found: Iterable[Record], config_sha256: str, config: dict[str, Any]
) -> None:
    """Refuse a folder that holds another configuration's results.

    Raises:
        OutputExistsError: Says what differs.
    """
    for record in found:
        if record.succeeded and record.config_sha256 != config_sha256:
            state = out / STATE_FOLDER
            differs = _difference(state, record.config_sha256, config)
            raise OutputExistsError(
                f"{out} holds results of another configuration ({differs}), such as "
                f"{record.case}; give another folder, or --mix to have both there and redo what "
                "is in this batch."
            )


def _difference(state: Path, sha256: str, config: dict[str, Any]) -> str:
    place = state / "configurations" / f"{sha256}.json"
    try:
        old = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return "of unknown making"
    names = [name for name, value in config.items() if old.get(name) != value]
    return ", ".join(names).replace("_sha256", "") or "of unknown making"
