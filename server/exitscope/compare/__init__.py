"""Two recordings held against each other: figures with their confidence, conditions, a verdict, a report."""
