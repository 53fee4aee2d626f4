"""The rules, each a function of a `RuleContext` giving a `Problem` for every place where it is broken."""
