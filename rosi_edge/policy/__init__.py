"""Release checks: a policy, rules that look at one file, one verdict, and reports that all tell the same."""
