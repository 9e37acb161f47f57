"""Names that somebody might give to a feature, a parameter, a label, a folder."""

# Escape sequences that colour text, set the title of a window and ring the bell, in seven and in
# eight bits; characters that reverse the direction of writing; line breaks.
INVISIBLE = [
    "\x1b[31mred", "\x1b]0;title\x07", "\x9b31mred", "\u202egnp.exe", "two\nlines", "\rover",
    "\ttab", "\x7f", "\u2028",
]  # fmt: skip

# What some language would take for more than letters: rich, matplotlib, HTML, Jinja, Python, the
# shell, a file system.
MEANINGFUL = [
    "[/]", "[bold]b", "[link=http://a.b]c[/link]", "$\\frac$", "$", "$x^$ y", "a_$_b", "\\",
    "<script>alert(1)</script>", "</script><b>", "<!--<script>", "&lt;", "\"'><img src=x>",
    "{{ 7 * 7 }}", "{% include 'x' %}", "{0}", "%s", "`id`", "$(id)", "../evil", "/tmp/evil", "a/b",
    "~", "-rf", "*", "", " ", "_nolegend_", "None", "__class__", "e" * 3000,
]  # fmt: skip

# Names that this package gives to something of its own.
OUR_OWN = ["n", "m", "sum", "carry", "random", "kernel", "whole", "mode", "name", "x", "file"]

WRITTEN = ["実験", "Größe", "🧪", "قيمة"]

NAMES = [*INVISIBLE, *MEANINGFUL, *OUR_OWN, *WRITTEN]
