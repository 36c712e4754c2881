"""Review by a person: a random sample of rows, the page that shows them, and what the decisions measure."""
