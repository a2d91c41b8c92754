"""Renders a page with Jinja2, from the action's own virtual environment or beside it."""
import os

import jinja2

from parts.greeting import GREETING

PAGE = """<ul>{% for item in items %}
  <li>{{ loop.index }}. {{ item|e }}</li>{% endfor %}
</ul>"""


def main(args):
    page = jinja2.Environment(autoescape=False).from_string(PAGE).render(items=args["items"])
    return {
        "page": GREETING + page,
        "version": jinja2.__version__,
        "here": os.path.realpath(jinja2.__file__).startswith(os.path.realpath(os.getcwd())),
    }
