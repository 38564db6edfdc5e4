"""Why numbers differ: known mistakes, the parts of the formula, evidence and answer; comparison of bundles and live layers."""
