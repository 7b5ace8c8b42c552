"""The attacks beside each other on one model: the share that each turns and how far it goes, in numbers and a table."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from torch import Tensor

from shared.attack_table import CLIPPED, CW, SIGNS, Unit
from shared.attacks import attack, carlini_wagner, noise_as_far, per_lead, shortened, success
from shared.errors import DataError
from shared.model import ResNet34
from shared.training import Examples, apply, hits

if TYPE_CHECKING:
    from rich.console import RenderableType

WORDS: Mapping[Unit, str] = {"sd": "standard deviations of each lead", "uV": "microvolts"}


def beside_each_other(
    model: ResNet34,
    segments: Examples,
    attacks: Sequence[str],
    epsilons: Sequence[float],
    *,
    unit: str,
    alpha: float | None,
    seed: int,
    tell: Callable[[int], None],
) -> dict[str, Any]:
    """Return, by attack and strength, the share of rightly predicted segments that are turned, and the RMS change.

    Beside every attack is the share that noise turns which moves every sample as far as that attack did.

    Args:
        model: in evaluation mode.
        segments: N, of patients whom the model never saw.
        attacks: names of `shared.attack_table.ATTACKS`.
        epsilons: strengths in `unit`.
        unit: one of `shared.attack_table.UNITS`.
        alpha: clip radius of equation 3 in `unit`; None leaves the attack's own, a multiple of epsilon.
        seed: of random starts and signs.
        tell: told how many attacks are done.

    Raises:
        DataError: the model gets no segment right, so that none can be turned.
    """
    known = next(one for one in get_args(Unit) if one == unit)
    right = int(hits(apply(model, segments.segments), segments.labels, model.task).sum())
    if not right:
        raise DataError(f"the model gets none of {len(segments)} segments right, so no attack can turn one; train it")
    radius = None if alpha is None else per_lead(alpha, unit=known, lead_sd=model.lead_sd)
    rows = []
    for done, name in enumerate(attacks, start=1):
        nearest = carlini_wagner(model, segments) if name == CW else None  # whatever the strength
        for epsilon in epsilons:
            strength = per_lead(epsilon, unit=known, lead_sd=model.lead_sd)
            if nearest is not None:
                moved = shortened(segments.segments, nearest, strength)
            else:
                clipped = radius if name == CLIPPED else None
                moved = attack(model, segments, name, epsilon=strength, alpha=clipped, seed=seed)
            noise = moved if blind(name) else noise_as_far(segments.segments, moved, seed=seed)
            rows.append(
                {
                    "attack": name,
                    "epsilon": epsilon,
                    "turned": success(model, segments, moved),
                    "turned_by_noise": success(model, segments, noise),
                    "rms_sd": _rms(moved - segments.segments, model.lead_sd),
                }
            )
        tell(done)
    return {"unit": unit, "alpha": alpha, "segments": len(segments), "right": right, "rows": rows}


def blind(attack: str) -> bool:
    """Return whether an attack is noise itself."""
    return attack in SIGNS and SIGNS[attack].blind


def _rms(change: Tensor, lead_sd: Tensor) -> float:
    """Return the root of the mean square of a change, in standard deviations of each lead."""
    return (change / lead_sd[:, None]).square().mean().sqrt().item()


def render(result: Mapping[str, Any]) -> "RenderableType":
    """Return the table for a terminal: a row an attack, one below it for noise as far, a column a strength."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = {(row["attack"], row["epsilon"]): row for row in result["rows"]}
    attacks, epsilons = (list(dict.fromkeys(key[part] for key in rows)) for part in (0, 1))
    table = Table(title="Share of segments turned", title_style="bold", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("attack", no_wrap=True)
    for epsilon in epsilons:
        table.add_column(f"ε = {epsilon:g}", justify="right", no_wrap=True)
    for name in attacks:
        shares = {name: "turned"} if blind(name) else {name: "turned", f"noise as far as {name}": "turned_by_noise"}
        for told, share in shares.items():
            table.add_row(told, *(f"{rows[name, epsilon][share]:.1%}" for epsilon in epsilons))
    lines = [
        f"ε in {WORDS[result['unit']]}; noise changes every sample as far as the attack, or as fgsm,",
        "to a side drawn at random",
        f"of {result['right']} segments that the general model gets right, of {result['segments']} of never-used",
        f"patients, several of each; general model {result['general'][:12]}",
    ]
    return Group(table, *map(Text, lines))
