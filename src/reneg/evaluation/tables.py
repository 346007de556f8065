"""The tables of an evaluation, for a terminal and for the report alike."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reneg.intervals import interval

Row = dict[str, str]
REAL = "real pictures"


def mean_rows(results: dict, scope: dict) -> list[Row]:
    """One row for each reward and measure, one column for each negative and for the real pictures."""
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
    return rows


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
