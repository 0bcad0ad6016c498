"""The methods by name: the table, the grammar `NAME:option=value as LABEL`, and which ones are taken by default."""
