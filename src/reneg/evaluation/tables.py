"""The tables of an evaluation, for a terminal and for the report alike."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Row = dict[str, str]


def interval(estimate: dict, *, percent: bool = False, sign: bool = False) -> str:
    """A mean with its 95 % interval, as text."""
    scale, digits = (100, 1) if percent else (1, 3)

    def number(value: float) -> str:
        return f"{scale * value:{'+' if sign else ''}.{digits}f}"

    unit = " %" if percent else ""
    if estimate["low"] is None:
        return number(estimate["mean"]) + unit
    return f"{number(estimate['mean'])}{unit} [{number(estimate['low'])}, {number(estimate['high'])}]"


def mean_rows(results: dict, scope: dict) -> list[Row]:
    """One row for each negative, and one for the real pictures: the mean of each reward and measure."""
    headings = {name: f"{name} (judge)" if name in results["judges"] else name for name in results["rewards"]}
    rows = []
    for name, figures in scope["negatives"].items():
        row = {"negative": name}
        row |= {headings[reward]: interval(of["mean"]) for reward, of in figures["rewards"].items()}
        rows.append(row | {measure: interval(of) for measure, of in figures.items() if measure != "rewards"})
    if scope["real"]:
        row = {"negative": f"real pictures ({scope['real']['num_pictures']})"}
        rows.append(row | {headings[reward]: interval(mean) for reward, mean in scope["real"]["rewards"].items()})
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
