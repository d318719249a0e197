"""What an operator must be told of at once: rules that look at the state, and a ledger of what they have found."""
