"""Audits of the real code path: canaries through mechanism, server and simulator, and named checks."""
