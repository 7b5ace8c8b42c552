"""What a device has in use, and what replaces it; `client/store.py` keeps the one and carries out the other."""

from dataclasses import dataclass, field

from client.bundle import EightBits


@dataclass(frozen=True)
class State:
    """Digests of what is in use.

    Attributes:
        general, model, bundle: digests; `model` equals `general` when the general model is served.
        recipe: digest of all that the model was made of, "" for none; "<method>:" in front says that this
            unlearning method, which is not exact, was given it and guarantees nothing.
        reason: why a personal copy was not accepted, else "".
        records: ids of the recordings that the model was made of; where one is withdrawn, the wearable stops it.
        int8: the same model in eight bits, or why there is no such file.
    """

    general: str = ""
    model: str = ""
    bundle: str = ""
    recipe: str = ""
    reason: str = ""
    records: tuple[str, ...] = ()
    int8: EightBits = field(default_factory=EightBits)

    @property
    def made_of(self) -> str:
        """Return the recipe without the method; a model stays in use as long as this is what is wanted."""
        return self.recipe.rpartition(":")[2]


@dataclass(frozen=True)
class Change:
    """What replaces the model in use, and what goes.

    Attributes:
        state: the state afterwards; without a model, the files of the one before are removed.
        model, bundle, manifest, int8: the bytes of the new files; without a model, what is there stays. Without an
            eight-bit file the one before goes.
        erase: ids of recordings to erase.
        answer: name and text of an answer to keep, so that a repeated request gets it again.
    """

    state: State
    model: bytes = b""
    bundle: bytes = b""
    manifest: bytes = b""
    int8: bytes = b""
    erase: tuple[str, ...] = ()
    answer: tuple[str, str] | None = None
