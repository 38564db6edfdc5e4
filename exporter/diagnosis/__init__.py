"""Why numbers differ: the known mistakes, the formula taken apart, the evidence and the answer; bundles and live layers compared."""
