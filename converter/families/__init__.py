"""Model families: their networks, conditions and noise schedules."""
