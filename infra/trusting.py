"""How far semantic answers are trusted, by the settings: the decision rule with the shipped prior, the assurance, and the judge.

Apart from `infra.knowing`, since the learning service needs none of the models that are loaded there: 100 MB.
"""

from __future__ import annotations

import json
from pathlib import Path

from infra.settings import Settings
from streams.errors import PoisonError
from streams.semantic.assurance import AssuranceRules
from streams.semantic.decision import DecisionRule, Prior
from streams.semantic.judging import RuleJudge
from streams.semantic.ports import SameAnswerJudge
from streams.semantic.trust import TrustSettings

_DECISION = Path(__file__).parent / "shipped" / "verifier" / "decision.json"


def judge(settings: Settings) -> SameAnswerJudge | None:
    """Who compares a known answer with a fresh one; None where semantic answers are off."""
    return RuleJudge() if settings.semantic == "on" else None


def trust(settings: Settings) -> TrustSettings:
    """How entries decide and what a scope has to hold, by the error bound of the settings and the judge's measured error."""
    error = RuleJudge().error
    rules = AssuranceRules(
        limit=settings.semantic_error_bound, trusted_share=settings.semantic_check_share, judge_misses=error.false_same_upper,
        judge_false_flags=error.false_different,
    )  # fmt: skip
    facts = json.loads(_DECISION.read_text())
    # The prior was estimated, which is not in it: the shipped margin tightens a bound so that it held on pairs that nobody had seen.
    known = [float(bound) for bound in facts["bounds"] if float(bound) <= settings.semantic_error_bound]
    if not known:
        least = min(facts["bounds"], key=float)
        reason = f"no operating point was learnt for an error bound of {settings.semantic_error_bound}"
        raise PoisonError("bound_too_small", reason, f"set HEADRACE_SEMANTIC_ERROR_BOUND to {least} or more, or HEADRACE_SEMANTIC=off")
    bound = max(known)
    rule = DecisionRule(Prior.from_rows(facts["prior"]), facts["bounds"][str(bound)]["margin"] * bound)
    return TrustSettings(rule, rules)
