"""The report page of an audit."""
