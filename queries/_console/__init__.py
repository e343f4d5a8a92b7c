"""The console: what people look at and click. Pages declare panels; a panel shows what one query answers.

A context's page has the context's file name. Files that begin with `_` are what all pages share.
"""
