"""Review by a person: a random sample of rows, a page that shows them, and estimates from the decisions."""
