"""The rules: functions that take a `RuleContext` and yield a `Problem` for every place that breaks the rule."""
