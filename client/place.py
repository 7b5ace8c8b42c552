"""Where this device is: which one it is, where it keeps its files, what its sensor records, where word reaches it.

A device of a deployment is told when it is started, on its own machine, and takes nothing of it from the hospital. One
that Flower simulates is told its number only, and lies in the workspace that the run names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context

from client.sensor import Feed
from client.store import Store
from shared.errors import DataError
from shared.notice import FOLDER, Notice


@dataclass(frozen=True)
class Place:
    """Where one device is.

    Attributes:
        slot: which device.
        folder: its private folder.
        feed: what its sensor records.
        notice: the word left for it.
    """

    slot: int
    folder: Path
    feed: Path
    notice: Notice

    @classmethod
    def of(cls, context: Context) -> "Place":
        """Return the place that a context names.

        Raises:
            DataError: it names none, or one that is not absolute.
        """
        told = context.node_config
        if "slot" not in told:
            home, slot = _absolute(context.run_config, "home"), int(told["partition-id"])
            return cls(
                slot, home / "devices" / str(slot), home / "feeds" / f"{slot}.json", Notice(home / FOLDER / str(slot))
            )
        notice = Notice(_absolute(told, "notice")) if "notice" in told else Notice()
        return cls(int(told["slot"]), _absolute(told, "folder"), _absolute(told, "feed"), notice)

    def store(self) -> Store:
        """Open the device's folder."""
        return Store(self.folder, self.notice)

    def sensor(self) -> Feed:
        """Open what the sensor records."""
        return Feed.open(self.feed)


def _absolute(told: Mapping[str, object], name: str) -> Path:
    path = Path(str(told[name]))
    if not path.is_absolute():
        raise DataError(f"{name} is {str(path)!r}, expected an absolute path")
    return path
