"""What decisions were made of, in words: one of them, and what was remarkable about a day of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from experiments.analysis.amounts import percent, seconds

_LONG = 0.05  # of all decisions that an overspent budget must last to be told


def clock(at_s: float) -> str:
    """The time of day of a moment of the traffic."""
    whole = round(at_s) % 86_400
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def in_words(row: Mapping[str, Any]) -> str:
    """A decision, a row of `agents.policies.explained.decisions_of`, as a sentence or two."""
    when = f"{clock(row['at_s'])} {row['service']}"
    if row["stale"]:
        return f"{when}: metrics were too old; {row['desired']:.0f} replicas were held."
    words = (
        f"{when}: the last scrape showed a load of {row['load']:.1f} pods; {row['forecast']:.1f} "
        f"are expected when pods ordered now are ready, give or take {row['uncertainty']:.0%}. Of the error budget "
        f"{row['budget_spent']:.0%} is spent, so {row['needed']:.0f} replicas cost least ({row['margin']:+.0%})"
    )
    if row["residual"]:
        words += f", with {row['residual']:+.1%} of load by what was learned"
    if row["overdue"]:
        words += f"; {row['overdue']:.0f} pods that should be ready do not count"
    held = f" ({row['desired'] - row['needed']:+.0f} by holds and bounds)" if row["desired"] != row["needed"] else ""
    return f"{words}. Asked for: {row['desired']:.0f}{held}."


def day_in_words(decisions: pd.DataFrame) -> list[str]:
    """What was remarkable about decisions of one service, each sentence worked out from them; empty where all were held.

    Args:
        decisions: of one service, in order; see `agents.policies.explained.COLUMNS`.
    """
    known = decisions[~decisions["stale"].astype(bool)]
    if known.empty:
        return []
    return [_of_forecasts(known), *_of_margins(known), *_of_learning(known), _of_budget(known), *_of_trouble(decisions)]


def forecast_errors(decisions: pd.DataFrame) -> pd.Series:
    """Relative errors of forecasts [1]: against the load of the first decision by when they should have come true."""
    made = decisions[["at_s", "forecast"]].assign(due_s=decisions["at_s"] + decisions["ahead_s"])
    came = decisions[["at_s", "load"]].rename(columns={"at_s": "seen_s"})
    joined = pd.merge_asof(made, came, left_on="due_s", right_on="seen_s", direction="forward").dropna()
    return (joined["forecast"] / joined["load"].clip(lower=1e-9) - 1.0).abs()


def margins(decisions: pd.DataFrame) -> pd.DataFrame:
    """Decisions whose margin was chosen: those at the fewest replicas that there ever were may have had no choice."""
    fewest = decisions["needed"].min()
    chosen = decisions[decisions["needed"] > fewest]
    return decisions if chosen.empty else chosen


def _of_forecasts(known: pd.DataFrame) -> str:
    errors = forecast_errors(known)
    ahead = seconds(known["ahead_s"].iloc[0])
    words = f"{len(known):,} decisions for {known['service'].iloc[0]}, each on a forecast for {ahead} later"
    if errors.empty:
        return f"{words}."
    half, most = (percent(float(errors.quantile(share))) for share in (0.5, 0.9))
    return f"{words}: half of them came within {half} of the load that was seen then, nine in ten within {most}."


def _of_margins(known: pd.DataFrame) -> list[str]:
    chosen = margins(known)
    least, most = _extremes(chosen, "margin")
    words = (
        f"The largest margin over the forecast was {_signed(most['margin'])} at {_minute(most)}: {_replicas(most)} for "
        f"{most['forecast']:.1f} pods of load, give or take {percent(most['uncertainty'])}{_why(most)}."
    )
    if most["margin"] == least["margin"]:
        return [words]
    return [
        words,
        f"The smallest was {_signed(least['margin'])} at {_minute(least)}: {_replicas(least)} for "
        f"{least['forecast']:.1f} pods of load, give or take {percent(least['uncertainty'])}{_why(least)}.",
    ]


def _why(row: Mapping[Any, Any] | pd.Series) -> str:
    unsure, dear = int(row["for_uncertainty"]), int(row["for_budget"])
    parts = [f"{int(row['needed']) - unsure - dear} would have cost least had the forecast been exact"]
    parts += [f"{unsure} more for its uncertainty"] if unsure else []
    spent = f"{percent(row['budget_spent'], 0)} of the error budget was spent"
    parts += (
        [f"{abs(dear)} {'more' if dear > 0 else 'fewer'} since {'' if dear > 0 else 'only '}{spent}"] if dear else []
    )
    return f" ({', '.join(parts)})"


def _of_learning(known: pd.DataFrame) -> list[str]:
    """What a learned policy added; the rule alone adds nothing."""
    residual = known["residual"]
    if not residual.any():
        return []
    mean, least, most = (_signed(float(share), 1) for share in (residual.mean(), residual.min(), residual.max()))
    return [f"What it learned changed the load that it provided for by {mean} in the mean, from {least} to {most}."]


def _of_budget(known: pd.DataFrame) -> str:
    spent = known["budget_spent"]
    moments = (*_extremes(known, "budget_spent"), known.iloc[-1])
    ends = [f"{percent(row['budget_spent'], 0)} at {_minute(row)}" for row in moments]
    words = (
        "Its own account of the error budget begins at 100 % spent and forgets over a day: "
        f"it read {ends[0]} at the least, {ends[1]} at the most, {ends[2]} in the end"
    )
    over = float((spent > 1.0).mean())
    return f"{words}; it was overspent {percent(over, 0)} of the time." if over >= _LONG else f"{words}."


def _of_trouble(decisions: pd.DataFrame) -> list[str]:
    """Pods that were late, and metrics that were old; before the first scrape there are none."""
    told = []
    stale = decisions["stale"].astype(bool)
    late, held = decisions[decisions["overdue"] > 0], decisions[stale & ~stale.cummin()]
    if len(late):
        _, worst = _extremes(late, "overdue")
        told.append(
            f"Pods that should have been ready did not count in {len(late):,} decisions; the most were "
            f"{worst['overdue']:.0f} at {_minute(worst)}."
        )
    if len(held):
        told.append(f"{len(held):,} decisions held on metrics that were too old, the first at {_minute(held.iloc[0])}.")
    return told


def _replicas(row: Mapping[Any, Any] | pd.Series) -> str:
    return f"{row['needed']:.0f} replica{'' if row['needed'] == 1 else 's'}"


def _signed(share: float, decimals: int = 0) -> str:
    return f"{'+' if share >= 0 else '−'}{percent(abs(share), decimals)}"


def _extremes(decisions: pd.DataFrame, name: str) -> tuple[pd.Series, pd.Series]:
    """The first decisions at which a column is least and at which it is greatest."""
    values = decisions[name].to_numpy(dtype=float)
    return decisions.iloc[int(values.argmin())], decisions.iloc[int(values.argmax())]


def _minute(row: Mapping[Any, Any] | pd.Series) -> str:
    return clock(row["at_s"])[:5]
