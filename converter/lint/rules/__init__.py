"""The rules, each a function of a `Subject` giving a `Problem` for every place where it is broken."""
