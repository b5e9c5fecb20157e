"""What results look like: plots, tables, and the machine that they were measured on."""
