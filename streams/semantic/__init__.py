"""Semantic answers: candidates, gates, verification, and the rule that decides with an error bound."""
