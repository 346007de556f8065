"""The tables of an evaluation, for a terminal and for the report alike."""

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reneg.intervals import interval

Row = dict[str, str]
REAL = "real pictures"
MOST_COLUMNS = 6
"""Negatives side by side in a table; more would not fit."""
COST_TEXT = (
    "An evaluation is one sample through the denoiser once; guidance takes two a step. Beside a picture's stand those "
    "that a method spends on each prompt beforehand, and those that were spent once to learn a file. What files do "
    "not tell is left empty."
)


def mean_rows(results: dict, scope: dict) -> list[Row]:
    """One row for each reward and measure, one column for each negative and for the real pictures.

    Of more than MOST_COLUMNS negatives each has a row instead.
    """
    negatives, real = scope["negatives"], scope["real"]
    rows = []
    for reward in results["rewards"]:
        row = {"mean of": f"{reward} (judge)" if reward in results["judges"] else reward}
        row |= {name: interval(figures["rewards"][reward]["mean"]) for name, figures in negatives.items()}
        if real:
            row[REAL] = interval(real["rewards"][reward])
        rows.append(row)
    for measure in (name for name in next(iter(negatives.values())) if name != "rewards"):
        rows.append({"mean of": measure, **{name: interval(figures[measure]) for name, figures in negatives.items()}})
    if len(negatives) <= MOST_COLUMNS:
        return rows
    names = [*negatives, *([REAL] if real else [])]
    return [{"negative": name, **{row["mean of"]: row.get(name, "") for row in rows}} for name in names]


def paired_rows(results: dict, scope: dict) -> list[Row]:
    """One row for each negative, earlier base and reward: the paired difference and win rate."""
    names, rows = list(scope["negatives"]), []
    for position, name in enumerate(names):
        for base in results["bases"]:
            if names.index(base) >= position:
                continue  # the same comparison, seen from the other side
            for reward, figures in scope["negatives"][name]["rewards"].items():
                row = {"negative": name, "against": base, "reward": reward}
                row |= {"judge": "yes" if reward in results["judges"] else ""}
                row |= {"difference": interval(figures["difference"][base], sign=True)}
                rows.append(row | {"wins": interval(figures["win_rate"][base], percent=True)})
    return rows


def cost_rows(results: dict) -> list[Row]:
    """One row for each negative: what it is, what it takes to store, to draw, for each prompt, and to learn."""
    rows = []
    for negative in results["negatives"]:
        cost = negative["cost"]
        per_prompt, learning = cost["per_prompt"], cost["learning"]
        rows.append(
            {
                "negative": negative["name"],
                "what": negative["kind"],
                "guidance scale": f"{negative['guidance_scale']:g}",
                "bytes": f"{cost['bytes']:,}",
                "evaluations a picture": f"{cost['denoiser_evaluations_per_picture']:,}",
                "for each prompt": _counts(per_prompt),
                "to learn": _counts(learning),
            }
        )
    return rows


def _counts(counts: Mapping[str, int | float]) -> str:
    """Counts by name, the evaluations first; without a fraction where there is none."""
    told = {name.removeprefix("denoiser_").replace("_", " "): count for name, count in counts.items()}
    return ", ".join(f"{count:,.1f}".removesuffix(".0") + f" {name}" for name, count in told.items())


def by_group(results: dict, rows_of) -> list[Row]:
    """`mean_rows` or `paired_rows` of each group, one below the other."""
    return [
        {"group": f"{group} ({scope['num_prompts']})", **row}
        for group, scope in results["groups"].items()
        for row in rows_of(results, scope)
    ]


def print_table(results: dict, console: Console) -> None:
    """Show what `evaluate` returned."""
    overall, settings = results["overall"], results["settings"]
    what = f"{overall['num_prompts']} prompts x {settings['num_seeds']} noises, 95 % intervals over prompts"
    console.print(_table(f"Mean scores ({what})", mean_rows(results, overall)))
    console.print(_table("Paired, on the same prompts and noises", paired_rows(results, overall)))
    console.print(_table("Cost (docs/evaluation.md)", cost_rows(results)))
    if len(results["groups"]) > 1:
        console.print(_table("Mean scores by group (prompts)", by_group(results, mean_rows)))
    for note in results["notes"]:
        console.print(escape(note), style="yellow")


def _table(title: str, rows: list[Row]) -> Table:
    table = Table(title=title, title_justify="left", row_styles=["", "dim"])
    columns = list(dict.fromkeys(column for row in rows for column in row))
    for column in columns:
        table.add_column(escape(column), overflow="fold")
    for row in rows:
        table.add_row(*(escape(row.get(column, "")) for column in columns))
    return table
