"""What the paper says: its numbers, its claims, its recipe. No torch.

numbers: config/paper/. claims: config/claims.yaml, each a predicate. deviations: where a study departs from the recipe.

May import: runtime, study.
"""
