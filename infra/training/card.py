"""The model card of a shipped intent classifier: data, licence, figures, and the command that makes it again. Pure."""

from __future__ import annotations

from collections.abc import Mapping

_CARD = """# {name}

Sorts a text into one of {intents} intents, or calls it `{outside}`, and says how sure it is. Below its cut it does not know, and the
request goes to a language model.

| | |
| --- | --- |
| Input | a text, and its vector by `{embedder}` (either precision) |
| Network | the vector beside the sum of {width} learned numbers for each hashed n-gram ({buckets} buckets, 8 bits); \
one hidden layer of {hidden}; the mean of {members} |
| Size | {size_mb:.1f} MB with this card |
| Data | CLINC150 (Larson et al., "An evaluation dataset for intent classification and out-of-scope prediction", EMNLP 2019): \
{rows} training and validation rows, {outside_rows} of them out of scope |
| Licence of the data | CC BY 3.0, by Clinc, Inc.; nothing of its text is in this folder but the names of the intents |
| Made again by | `python -m infra.training.intents` (`HEADRACE_DATA` names the folder of the data) on one core |
| Seed | {seed}; the same machine and library versions give the same bytes |

## Confidence and cut

Confidence is the probability that the label is right, calibrated on held-out rows (Platt scaling) that are weighed to {share:.0%} out of
scope. The cut is {cut:.3f}: the lowest at which, by the lower ends of the 95% intervals on the held-out rows, {precision:.0%} of the
answers in scope are right and {recall:.0%} of what is out of scope is refused.

## Figures

On the held-out rows of the calibration part (the published validation rows, and each out-of-scope row left out once), vectors in int8:

| figure | value |
| --- | ---: |
{held_out}

On the benchmark part, which nothing was chosen on: `benchmarks/results/small_models.json`, made by `./headrace bench small_models`.

## What it is not for

English only. The intents are those of an assistant for banking, travel, the household, the car and work. What people out of scope say is
known from {outside_rows} rows, so very different traffic should be measured before the cut is trusted: watch how often the language model
agrees, and `feedback`.
"""


def card(held_out: Mapping[str, float], **facts: object) -> str:
    """Markdown. `held_out`: figures by name; `facts`: the other fields of the text."""
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in held_out.items())
    return _CARD.format(held_out=rows, **facts)
