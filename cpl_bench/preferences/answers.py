"""What a preference file says, in lines: its shapes, how often each answer was given, and how far
two files agree about the same segments."""

from __future__ import annotations

import hashlib

import numpy as np

from cpl_bench.core.errors import UserError
from cpl_bench.core.published import short
from cpl_bench.preferences.format import Preferences


def describe_file(preferences: Preferences) -> list[str]:
    """What a file holds, whoever made it."""
    info, lengths = preferences.info, np.diff(preferences.episode_ends, prepend=0)
    there = [
        name
        for name in ("scores", "rewards", "successes", "terminations", "weight")
        if getattr(preferences, name) is not None
    ]
    return [
        f"data           {info.title}: {info.task or 'no task'}",
        f"source         {info.source}, sha256 {short(info.source_hash)}",
        f"preferences    sha256 {short(info.preferences_hash)}",
        f"episodes       {len(lengths):,} ({lengths.min()} to {lengths.max()} steps); "
        f"{len(preferences.observations):,} steps",
        f"observations   {preferences.observations.shape}, actions {preferences.actions.shape}",
        f"segments       {len(preferences.segment_starts):,} of {info.segment_length} steps",
        f"scorer         {info.scorer or 'none'}, annotator {info.annotator}",
        f"also           {', '.join(there) or 'nothing'}",
        *answer_lines(preferences),
    ]


def answer_lines(preferences: Preferences) -> list[str]:
    """How often each answer was given; dense data list none."""
    if preferences.info.pairs == "dense":
        return ["comparisons    every pair is comparable; the annotator answers from the scores"]
    answers = preferences.prefers_second
    skipped = np.zeros(len(answers), bool)
    if preferences.weight is not None:
        skipped = preferences.weight == 0
    counts = {
        "prefer the first": answers == 0,
        "tie": answers == 0.5,
        "prefer the second": answers == 1,
        "lie between": ~np.isin(answers, (0, 0.5, 1)),
    }
    said = [f"{int((found & ~skipped).sum()):,} {what}" for what, found in counts.items()]
    if said[-1].startswith("0 "):
        said.pop()
    if skipped.any():
        said.append(f"{int(skipped.sum()):,} were skipped")
    return [f"comparisons    {len(answers):,}, {preferences.info.pairs}: {', '.join(said)}"]


def agreement_line(preferences: Preferences, others: Preferences) -> str:
    """On how many of the comparisons that both decided two files agree.

    Comparisons are matched by what their segments hold, so their order in a file does not matter.

    Raises:
        UserError: dense data, or no comparison of the same segments in both.
    """
    ours, theirs = (_decided(each) for each in (preferences, others))
    shared = [key for key in ours if key in theirs]
    if not shared:
        raise UserError(
            f"{preferences.info.title} and {others.info.title} compare no pair of segments alike: "
            "there is nothing to agree on."
        )
    decided = [key for key in shared if ours[key] != 0.5 and theirs[key] != 0.5]
    agreed = sum((ours[key] > 0.5) == (theirs[key] > 0.5) for key in decided)
    share = f"{agreed / len(decided):.0%}" if decided else "none"
    return (
        f"agreement      {share} of the {len(decided):,} comparisons that both decided "
        f"({agreed:,}; {len(shared):,} are in both files)"
    )


def _decided(preferences: Preferences) -> dict[tuple[bytes, bytes], float]:
    """What was answered to each comparison, by the content of its segments; first the smaller."""
    if preferences.info.pairs == "dense":
        raise UserError(
            f"{preferences.info.title} is dense and lists no comparisons. Label with --pairs "
            "sparse, or compare scorers: cpl-bench inspect CARD --scorers …"
        )
    keys = [_content(preferences, int(start)) for start in preferences.segment_starts]
    found = {}
    for i, (first, second) in enumerate(zip(preferences.first, preferences.second, strict=True)):
        if preferences.weight is not None and not preferences.weight[i]:
            continue
        pair, answer = (keys[first], keys[second]), float(preferences.prefers_second[i])
        found[pair if pair[0] <= pair[1] else pair[::-1]] = (
            answer if pair[0] <= pair[1] else 1 - answer
        )
    return found


def _content(preferences: Preferences, start: int) -> bytes:
    rows = slice(start, start + preferences.info.segment_length)
    digest = hashlib.sha256(np.ascontiguousarray(preferences.observations[rows]).tobytes())
    digest.update(np.ascontiguousarray(preferences.actions[rows]).tobytes())
    return digest.digest()
