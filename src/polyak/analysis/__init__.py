"""Records to numbers to statements: nothing here trains, nothing here draws."""
