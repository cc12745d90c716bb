"""Reading workflows: files (`load`, `png`), their shape (`shape`), and the UI format (`convert`).

`convert` turns a drawing into a prompt in steps: `graph` has the drawn nodes, `widgets` matches stored values with the
inputs that a node type declares, `subgraphs` unfolds subgraphs, `links` follows links, `text` fills in `{a|b}` and
`%date%`.
"""
