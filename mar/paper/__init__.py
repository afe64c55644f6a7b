"""What the paper says: its numbers, its claims, its recipe. No torch.

numbers: the tables of config/paper/. claims: the predicates of config/claims.yaml. deviations: where a study departs
from the published recipe.

May import: runtime, study.
"""
