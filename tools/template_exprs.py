"""Small Jinja templates whose output make_template_fixtures.py records: every construct, filter,
test and method that the renderer has, and the errors that it must have too."""

VARS = {
    "s": "Hello, World",
    "u": "Größe 日本 🦊",
    "n": 7,
    "whole": [1.0, -0.0, 2e3, 1e22, 9007199254740993, 9223372036854775807, -9223372036854775808],
    "f": 2.5,
    "t": True,
    "no": None,
    "empty": "",
    "l": [3, 1, 2],
    "words": ["b", "A", "c", "a"],
    "d": {"b": 1, "a": [1, {"x": None}], "items": "mine", "k k": 2},
    "people": [
        {"name": "Bo", "age": 30, "tag": {"x": 1}},
        {"name": "al", "age": 25, "tag": {"x": 2}},
        {"name": "Cy", "age": 30},
    ],
    "msg": {"role": "user", "content": "  hi \n"},
}

LITERALS = """
{{ 1 }}|{{ 1.5 }}|{{ 1e3 }}|{{ 1.0 }}|{{ 1_000 }}|{{ 0x1f }}|{{ 0b101 }}|{{ 0o17 }}|{{ 1e20 }}|{{ 1e-5 }}|{{ 0.0001 }}
{{ 'a' }}{{ "b" }}{{ 'it\\'s' }}{{ "\\n\\t\\x41\\u00e9\\U0001F98A\\101" }}{{ 'a' 'b' "c" }}
{{ '\\d\\\\' }}
{{ true }} {{ True }} {{ false }} {{ none }} {{ None }}
{{ [] }} {{ [1, 'a', none, 1.0, true] }} {{ () }} {{ (1,) }} {{ (1, 2) }} {{ 1, 2 }}
{{ {} }} {{ {'a': 1, "b'c": [1], 3: 'x', none: 4} }}
{{ ["it's", 'say "x"', 'both \\' "', 'tab\\t', 'nl\\n', '\\x01', 'é', '\\u200b', '\\\\'] }}
{{ u }} {{ [u] }} {{ d }} {{ people }}
{{ 0.1 + 0.2 }} {{ 1 / 3 }} {{ 1e16 }} {{ 123456789012345.0 }} {{ 1e15 * 10 }} {{ 2.0 ** 70 }}
{{ whole }} {{ whole|tojson }} {{ whole[0] is float }} {{ whole[4] is integer }} {{ whole[4] + 1 }} {{ whole[0]|string + '%s' % whole[2] }} {{ 1.0 in whole }}
{{ 007 }}
""".strip().split("\n")

OPERATORS = """
{{ 1 + 2 * 3 - 4 }} {{ (1 + 2) * 3 }} {{ 7 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }}
{{ 2 ** 10 }} {{ 2 ** -1 }} {{ -2 ** 2 }} {{ 2 ** 3 ** 2 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 1 - -1 }} {{ +3 }}
{{ true + 1 }} {{ 3 * 'ab' }} {{ 'ab' * 2 }} {{ [1] * 2 }} {{ [1] + [2] }} {{ (1,) + (2,) }} {{ 'a' * -1 }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ [1] + (2,) }}
{{ none + 1 }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 'a' ~ 1 ~ none ~ true ~ 1.5 ~ [1] }} {{ 1 ~ 2 * 3 }} {{ 'x' ~ nope ~ 'y' }}
{{ 1 < 2 }} {{ 1 < 2 < 3 }} {{ 1 < 2 > 5 }} {{ 1 == 1.0 }} {{ 1 == true }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }}
{{ 1 != 2 }} {{ 'a' == 'a' }} {{ [1] == [1] }} {{ (1,) == [1] }} {{ {'a': 1} == {'a': 1.0} }} {{ none == false }}
{{ 1 < 'a' }}
{{ none < 1 }}
{{ 'ell' in s }} {{ 'x' not in s }} {{ 1 in l }} {{ 9 in l }} {{ 'a' in d }} {{ 'z' in d }} {{ 1 in (1, 2) }} {{ 3 in range(5) }}
{{ 1 in 'abc' }}
{{ 1 in 5 }}
{{ 'a' in nope }}
{{ nope in [1] }}
{{ not true }} {{ not '' }} {{ true and 'x' }} {{ '' or 'y' }} {{ 0 and 1/0 }} {{ 1 or 1/0 }} {{ not 1 == 2 }}
{{ 'a' if t else 'b' }} {{ 'a' if no else 'b' }} {{ 'a' if no }} {{ 'a' if no else 'b' if t else 'c' }}
{{ ('a' if no) is defined }} {{ 1 if 2 if 0 else 3 else 4 }}
{{ '%s is %d or %.2f%% %5s|%-5s|%05d %r' % ('x', 3, 1.005, 'a', 'b', 42, 'q') }}
{{ '%s' % 'one' }} {{ '%s' % [1] }} {{ '%x' % 255 }}
{{ '%s %s' % 'one' }}
{{ '%d' % 'x' }}
{{ 9223372036854775807 + 0 }} {{ -9223372036854775807 }}
{{ n is odd and n > 5 or false }} {{ not n is even }} {{ -n|abs }} {{ n * 2|string|length }}
""".strip().split("\n")

ACCESS = """
{{ d.a }} {{ d['b'] }} {{ d.b }} {{ d['k k'] }} {{ d['items'] }} {{ d.a[1].x }} {{ d.a.0 }} {{ d['a'][1]['x'] }}
{{ d.items() | list }} {{ d.items is defined }} {{ d.nope is defined }} [{{ d.nope }}] [{{ d['nope'] }}]
{{ nope }}[{{ nope.x }}]
{{ d.nope.x }}
{{ nope['x'] }}
{{ nope() }}
{{ nope + 1 }}
{{ -nope }}
{{ nope|length }} {{ nope|list }} [{{ nope|upper }}] {{ nope is none }} {{ not nope }} {{ nope == nope2 }} {{ nope == none }}
{{ no.x is defined }} [{{ no.x }}] [{{ n.foo }}] [{{ s.foo }}] [{{ l.foo }}] [{{ none[0] }}]
{{ s[0] }} {{ s[-1] }} [{{ s[99] }}] {{ u[2] }} {{ u[-1] }} {{ l[0] }} {{ l[-1] }} [{{ l[9] }}] {{ (1, 2)[1] }}
{{ s[1:4] }} {{ s[:5] }} {{ s[7:] }} {{ s[::-1] }} {{ s[-5:-1] }} {{ s[::2] }} {{ s[10:2:-3] }} {{ u[2:-2] }} {{ s[99:] }} {{ s[-99:3] }}
{{ l[1:] }} {{ l[::-1] }} {{ l[:-1] }} {{ l[5:] }} {{ (1, 2, 3)[::2] }} {{ l[-1:] }} {{ range(10)[2:5] | list }} {{ l[none:2] }}
{{ l[::0] }}
{{ l['a':] }}
{{ no[1:] }}
{{ d[1:] }}
{{ nope[1:] }}
{{ l[1.0] is defined }} {{ d[l] is defined }} {{ l[true] }}
{{ s.strip.x is defined }}
{{ l.append(1) }}
{{ d.update({}) }}
{{ d.pop('a') }}
[{{ l.append }}] {{ l.append is defined }}
[{{ s.__class__ }}] {{ s.__class__ is defined }}
{{ s.__class__.__mro__ }}
{{ d.__len__() }}
{{ d.get('b') }} {{ d.get('z') }} {{ d.get('z', 5) }} {{ d.keys() | list }} {{ d.values() | list }} {{ d.keys() }} {{ d.items() }}
{{ d.get() }}
{{ d.items()[0] is defined }} {{ d.items() | length }} {{ d.copy() == d }}
{{ n() }}
{{ s() }}
""".strip().split("\n")

METHODS = """
[{{ msg.content.strip() }}] [{{ msg.content.lstrip() }}] [{{ msg.content.rstrip() }}] [{{ 'xxaxyx'.strip('x') }}] [{{ 'xyabyx'.strip('yx') }}] [{{ 'éaé'.strip('é') }}]
[{{ 'xax'.lstrip('x') }}] [{{ 'xax'.rstrip('x') }}] [{{ ' a '.strip(none) }}] [{{ '\\u00a0\\u3000a\\u2028'.strip() }}]
{{ 'a,b,,c'.split(',') }} {{ 'a b  c '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b c'.split(none, 1) }} {{ ' a  b c '.split(maxsplit=1) }} {{ ''.split() }} {{ ''.split(',') }}
{{ 'a,b,c'.rsplit(',', 1) }} {{ 'a b c '.rsplit(none, 1) }} {{ 'a--b--c'.split('--') }} {{ 'aaa'.rsplit('aa') }} {{ ' a  b  c '.rsplit(maxsplit=1) }} {{ 'a b c'.rsplit() }}
{{ 'x'.split('') }}
{{ 'x'.split(1) }}
{{ s.split('</think>')[-1] }} {{ 'a</think>b'.split('</think>')[-1].lstrip('\\n') }}
{{ s.startswith('Hel') }} {{ s.endswith('d') }} {{ s.startswith(('x', 'H')) }} {{ s.startswith('W', 7) }} {{ s.endswith('o', 0, 5) }} {{ u.startswith('日', 6) }}
{{ s.startswith(1) }}
{{ s.upper() }} {{ s.lower() }} {{ u.upper() }} {{ 'straße'.upper() }} {{ 'they\\'re bill'.title() }} {{ 'hELLO wORLD'.capitalize() }} {{ 'aBc'.swapcase() }}
{{ s.replace('l', 'L') }} {{ s.replace('l', '', 1) }} {{ 'aaa'.replace('aa', 'b') }} {{ 'ab'.replace('', '-') }} {{ 'ab'.replace('', '-', 1) }} {{ ''.replace('', 'x') }}
{{ s.replace('l') }}
{{ ', '.join(['a', 'b']) }} {{ ''.join('abc') }} {{ '-'.join({'a': 1, 'b': 2}) }}
{{ ','.join([1, 2]) }}
{{ s.find('o') }} {{ s.find('z') }} {{ s.find('o', 5) }} {{ u.find('日') }} {{ s.rfind('o') }} {{ s.index('W') }} {{ s.count('l') }} {{ s.count('') }} {{ 'aaaa'.count('aa') }}
{{ s.index('z') }}
{{ 'a1'.isalnum() }} {{ 'ab'.isalpha() }} {{ '12'.isdigit() }} {{ ' \\n'.isspace() }} {{ 'AB'.isupper() }} {{ 'ab1'.islower() }} {{ ''.isalpha() }} {{ '1'.isupper() }}
{{ 'pre-x'.removeprefix('pre-') }} {{ 'x.py'.removesuffix('.py') }} {{ 'a\\nb\\r\\nc'.splitlines() }} {{ 'a\\nb\\n'.splitlines(true) }}
{{ '{} {}'.format('a', 1) }} {{ '{1}{0}'.format('a', 'b') }} {{ '{x}{{}}'.format(x=2) }}
{{ '{} {}'.format('a') }}
{{ l.index(1) }} {{ l.count(3) }} {{ (1, 1).count(1) }}
{{ l.index(99) }}
""".strip().split("\n")

FILTERS = """
[{{ '  a '|trim }}] [{{ 'xax'|trim('x') }}] [{{ 5|trim }}] {{ s|upper }} {{ s|lower }} {{ 'foo bar-baz (qux) it\\'s'|title }} {{ 'fOO bAR'|capitalize }}
{{ l|join }} {{ l|join(', ') }} {{ people|join('/', attribute='name') }} {{ [1, none, 'a']|join('-') }} {{ 'abc'|join('.') }}
{{ s|length }} {{ u|length }} {{ d|length }} {{ l|count }} {{ ''|length }}
{{ 5|length }}
{{ none|length }}
{{ nope|default('x') }} {{ nope|d }} {{ ''|default('x') }} {{ ''|default('x', true) }} {{ none|default('x') }} {{ none|default('x', boolean=true) }} {{ d.nope|default(1) }}
{{ d|tojson }} {{ d|tojson(indent=2) }} {{ l|tojson }} {{ (1, 2)|tojson }} {{ none|tojson }} {{ true|tojson }} {{ 1.5|tojson }} {{ u|tojson }} {{ '<a href="x">&\\'\\n\\t\\x01\\x7f/'|tojson }}
{{ {'a': [], 'b': {}, 'c': [1, [2]]}|tojson(indent=4) }} {{ {1: 2, true: 3, none: 4, 1.5: 5}|tojson }} {{ d|tojson(separators=(',', ':')) }} {{ u|tojson(ensure_ascii=true) }} {{ {'b': 1, 'a': 2}|tojson(sort_keys=true) }} {{ [1]|tojson(indent='ab') }}
{{ nope|tojson }}
{{ d.items()|tojson }}
{{ range(3)|tojson }}
{{ l|first }} {{ l|last }} {{ ''|first is defined }} {{ []|last is defined }} {{ 'abc'|first }} {{ 'abc'|last }} {{ d|first }} {{ d|list }}
{{ 5|first }}
{{ 'abc'|list }} {{ (1, 2)|list }} {{ range(3)|list }} {{ {'a': 1}|list }}
{{ 5|list }}
{{ people|map(attribute='name')|list }} {{ people|map(attribute='tag.x', default=0)|list }} {{ words|map('upper')|list }} {{ words|map('replace', 'a', 'z')|join(',') }} {{ people|map(attribute='nope')|list|length }}
{{ people|map(attribute='tag.x')|list }}
{{ people|selectattr('age', 'equalto', 30)|map(attribute='name')|list }} {{ people|rejectattr('tag')|map(attribute='name')|list }} {{ people|selectattr('tag', 'defined')|list|length }} {{ people|selectattr('age', '>', 26)|list|length }} {{ people|selectattr('name', 'in', ['Bo', 'Cy'])|list|length }}
{{ l|select('odd')|list }} {{ l|reject('odd')|list }} {{ [0, 1, '']|select|list }} {{ l|select('>', 1)|list }} {{ l|select('divisibleby', 3)|list }}
{{ people|selectattr|list }}
{{ s|replace('l', 'L') }} {{ s|replace('l', 'L', 1) }} {{ 121|replace(1, 3) }} {{ 5|string + 'x' }} {{ none|string }} {{ 1.0|string }}
{{ '42'|int }} {{ '4.9'|int }} {{ 'x'|int }} {{ 'x'|int(7) }} {{ 3.9|int }} {{ -3.9|int }} {{ true|int }} {{ none|int }} {{ ' 12 '|int }} {{ 'ff'|int(0, 16) }} {{ '0x1f'|int(base=16) }} {{ '1_0'|int }} {{ [1]|int }}
{{ '1.5'|float }} {{ 'x'|float }} {{ 'x'|float(1.5) }} {{ 3|float }} {{ none|float }} {{ '1e3'|float }} {{ 'nan'|float }} {{ '-inf'|float }}
{{ nope|int }}
{{ -5|abs }} {{ -2.5|abs }} {{ (-5)|abs }} {{ true|abs }}
{{ 'x'|abs }}
{{ 2.5|round }} {{ 3.5|round }} {{ 2.675|round(2) }} {{ 42|round }} {{ 1.2|round(method='ceil') }} {{ 1.28|round(1, 'floor') }} {{ 1234.5|round(-2) }} {{ 7|round(1) }}
{{ l|reverse|list }} {{ 'abc'|reverse }} {{ l|reverse|first }}
{{ l|sort }} {{ l|sort(reverse=true) }} {{ words|sort }} {{ words|sort(case_sensitive=true) }} {{ people|sort(attribute='age')|map(attribute='name')|list }} {{ people|sort(attribute='age,name', reverse=true)|map(attribute='name')|list }} {{ 'bca'|sort }}
{{ [1, 'a']|sort }}
{{ [1, 2, 1, 3]|unique|list }} {{ words|unique|list }} {{ words|unique(true)|list }} {{ people|unique(attribute='age')|map(attribute='name')|list }}
{{ l|sum }} {{ people|sum('age') }} {{ l|sum(start=10) }} {{ [1.5, 2]|sum }} {{ [[1], [2]]|sum(start=[]) }} {{ []|sum }}
{{ l|min }} {{ l|max }} {{ words|min }} {{ words|max }} {{ people|max(attribute='age') }} [{{ []|min }}]
{{ d|items|list }} {{ nope|items|list }} {{ d|dictsort|map(attribute=0)|list }} {{ {'b': 1, 'a': 3, 'C': 2}|dictsort }} {{ {'b': 1, 'a': 3}|dictsort(by='value', reverse=true) }}
{{ 5|items|list }}
{{ 'a\\nb\\n\\nc'|indent }}| {{ 'a\\nb'|indent(2, true) }}| {{ 'a\\n\\nb'|indent(2, blank=true) }}| {{ 'a\\nb\\n'|indent(width='>>') }}| {{ ''|indent }}|
{{ '<a> & "b" \\'c\\''|e }} {{ '<'|escape }} {{ '<'|safe }} {{ '<'|safe|e }} {{ '<'|e|e }} {{ 5|e }}
{{ '<'|safe + '<' }} {{ '<' + '<'|safe }} {{ '<' ~ '<'|safe }} {{ '<'|safe + '' + '&' }} {{ ('<'|safe + '<') is escaped }} {{ '<'|safe * 2 + '<' }} {{ ('' + '<'|e) + "'" }} {{ [1]|safe + '<' }}
{{ '<'|safe + 1 }}
{{ [1, 2, 3, 4, 5]|batch(2)|list }} {{ [1, 2, 3]|batch(2, 'x')|list }}
{% for g in people|groupby('age') %}{{ g.grouper }}={{ g.list|map(attribute='name')|join(',') }};{% endfor %}{% for k, v in people|groupby('age') %}{{ k }}:{{ v|length }} {% endfor %}
{{ no|map('upper')|list }} {{ no|selectattr('x')|list }} {{ 0|select|list }} {{ nope|map(attribute='x')|list }} {{ [1, 2]|sort(attribute='x') }} {{ u|wordcount }}
{{ 5|indent }}
{{ range(9)[1:7:2] }} {{ range(3)[::-1]|list }} {{ '' % [1] }}
{{ 'x' % (1,) }}
{{ 'one two  three'|wordcount }} {{ '%s-%s'|format(1, 'b') }} {{ '%(a)s'|format(a=2) }} {{ msg|attr('role') is defined }}
{{ s|nofilter }}
{{ s|upper(1) }}
{{ s|replace('a', 'b', nope=1) }}
{% set g = l|map('string') %}{{ g|list }}{{ g|list }} {{ l|select is defined }}
{{ l|map('nofilter')|list }}
{{ (l|map('string'))|length }}
{{ s | upper | lower | title }} {{ (s|upper)[0] }} {{ s|upper is upper }} {{ 'abc'|length > 2 }} {{ 2 + 'abc'|length }}
""".strip().split("\n")

TESTS = """
{{ s is defined }} {{ nope is defined }} {{ nope is undefined }} {{ none is none }} {{ no is none }} {{ no is not none }} {{ s is string }} {{ 1 is string }}
{{ 1 is number }} {{ 1.5 is number }} {{ true is number }} {{ 1 is integer }} {{ true is integer }} {{ 1.0 is integer }} {{ 1.0 is float }} {{ true is boolean }} {{ 1 is boolean }}
{{ d is mapping }} {{ l is mapping }} {{ l is iterable }} {{ 1 is iterable }} {{ s is iterable }} {{ l is sequence }} {{ d is sequence }} {{ 1 is sequence }} {{ s is sequence }} {{ nope is sequence }} {{ nope is iterable }} {{ none is iterable }} {{ (l|map('string')) is sequence }} {{ d.items() is sequence }} {{ (1,) is sequence }}
{{ true is true }} {{ 1 is true }} {{ false is false }} {{ 0 is false }} {{ 3 is odd }} {{ 3 is even }} {{ 4 is divisibleby 2 }} {{ 4 is divisibleby(3) }}
{{ 1 is eq 1 }} {{ 1 is equalto(1) }} {{ 1 is ne 2 }} {{ 1 is lt 2 }} {{ 1 is le 1 }} {{ 2 is gt 1 }} {{ 2 is ge 3 }} {{ 1 is lessthan 2 }} {{ 1 is greaterthan 2 }} {{ 1 is in [1, 2] }} {{ 1 is in([2]) }} {{ 'a' is not in 'abc' }} {{ 1 is sameas 1 }} {{ none is sameas none }}
{{ 'abc' is lower }} {{ 'ABC' is upper }} {{ 'aB' is lower }} {{ range is callable }} {{ s is callable }} {{ s is escaped }} {{ s|safe is escaped }}
{{ 1 is nosuchtest }}
{{ 'x' is odd }}
{{ nope is odd }}
{{ 1 is defined is defined }}
{{ s is string and n is number or nope is defined }} {{ not nope is defined }}
{{ n is odd if t else 'x' }}
{{ (n is odd) if t else 'x' }}
{{ 1 ~ 2 + 3 }}
""".strip().split("\n")

STATEMENTS = [
    "{% if n > 5 %}a{% elif n > 3 %}b{% else %}c{% endif %}",
    "{% if nope %}a{% elif no %}b{% else %}c{% endif %}",
    "{% if a, b %}tuple{% endif %}",
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}"
    "{{ loop.first }}{{ loop.last }}{{ loop.length }}[{{ loop.previtem }}][{{ loop.nextitem }}]{{ x }};{% endfor %}",
    "{% for x in [] %}x{% else %}none{% endfor %}{% for x in nope %}x{% else %}undef{% endfor %}",
    "{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% else %}no{% endfor %}",
    "{% for x in l if x > 9 %}{{ x }}{% else %}no{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in d %}{{ k }},{% endfor %}{% for c in 'héy' %}{{ c }}.{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3)), (4, [5, 6])] %}{{ a }}{{ b }}{{ c }};{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}",
    "{% for a, b in [1] %}{{ a }}{% endfor %}",
    "{% for x in 5 %}{% endfor %}",
    "{% for x in none %}{% endfor %}",
    "{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x > 4 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in [1, 2] %}{% for y in 'ab' %}{{ x }}{{ y }}{{ loop.index }}{% if loop.last %}{% break %}{% endif %}{% endfor %}{{ loop.index }}|{% endfor %}",
    "{% for x in [1] %}{% break %}{% else %}else{% endfor %}x",
    "{% for x in [1, 2] %}{{ x }}{% continue %}{% else %}else{% endfor %}x",
    "{% for x in [1, 2] %}{% if x == 2 %}{% break %}{% endif %}{% else %}else{% endfor %}x",
    "{% break %}",
    "{% for x in l %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }}{% endfor %}",
    "{% for x in l %}{{ loop.depth }}{{ loop.nope is defined }}{% endfor %}{{ loop is defined }}",
    "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + i %}{{ x }};{% endfor %}{{ x }}",
    "{% set ns = namespace(x=0, s='') %}{% for i in l %}{% set ns.x = ns.x + i %}{% set ns.s = ns.s ~ i %}{% endfor %}{{ ns.x }}{{ ns.s }}{{ ns.nope is defined }}",
    "{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}{{ ns['a'] }}{{ ns }}",
    "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}",
    "{% set d.x = 1 %}",
    "{% set nope.x = 1 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d2) = [3, 4] %}{{ c }}{{ d2 }}",
    "{% set a, b = [1] %}",
    "{% set x = 1, 2 %}{{ x }}",
    "{% set x %}a{{ n }}b{% endset %}[{{ x }}]{% set y | upper | trim %} q {% endset %}[{{ y }}]",
    "{% set x %}{% set inner = 1 %}{% endset %}{{ inner is defined }}",
    "{% if true %}{% set x = 5 %}{% endif %}{{ x }}{% if false %}{% set z = 5 %}{% endif %}[{{ z }}]",
    "{% macro m(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=5, a=4) }}{{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}",
    "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 'a', k=2) }}",
    "{% macro m(a, b=a ~ '!') %}{{ b }}{% endmacro %}{{ m('x') }}",
    "{% macro f(k) %}{% if k > 0 %}{{ k }}{{ f(k - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% set x = 1 %}{% macro m() %}{{ x }}{% set x = 9 %}{{ x }}{% endmacro %}{% set x = 2 %}{{ m() }}{{ x }}",
    "{% macro m() %}  text {{ caller(3) }} {% endmacro %}{% call(v) m() %}v={{ v }}{% endcall %}",
    "{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}",
    "{% macro m() %} a {% endmacro %}[{{ m()|trim }}]{{ m() is string }}{{ m.name }}{{ m }}",
    "{% macro m(a, b, c=0) %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ m(*[1, 2]) }}{{ m(1, *[2], c=3) }}"
    "{{ m(**{'a': 1, 'c': 2}) }}{{ m(c=3, *[1]) }}{{ range(*[2, 5])|list }}{{ dict(**{'x': 1}) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(**5) }}",
    "{{ range(*nope) }}",
    "{{ dict(**nope) }}",
    "{{ f(**{}, **{}) }}",
    "{{ f(*[], 1) }}",
    "{% for i in l %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}{{ m is defined }}",
    "{% filter upper %}a{{ s }}{% endfilter %}{% filter replace('a', 'b')|trim %} aa {% endfilter %}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% set c = 3 %}{% endwith %}{{ a is defined }}{{ c is defined }}",
    "{% print 1, 'a' %}",
    "{% generation %}{{ s }}{% set q = 1 %}{% endgeneration %}{{ q is defined }}",
    "{{ range(3)|list }}{{ range(1, 4)|list }}{{ range(5, 0, -2)|list }}{{ range(3) }}{{ range(0, 6, 2) }}{{ range(3)|length }}",
    "{{ range(200000) }}",
    "{{ range('a') }}",
    "{{ range(1, 2, 0) }}",
    "{{ dict(a=1, b='x') }}{{ dict([('a', 1)]) }}{{ dict({'a': 1}, b=2) }}",
    "{{ raise_exception('no') }}",
    "{{ strftime_now('%d %b %Y %H:%M:%S %A %j %%') }}{{ strftime_now is defined }}",
    "{{ [1, 2,] }}{{ (1, 2,) }}{{ {'a': 1,} }}{{ dict(a=1,) }}",
    "{{ {'a': {'b': {}}} }}{{ {} }}",
    "{% for m in [msg, msg] %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}bad{% endif %}{% endfor %}",
    "{% if not messages is defined %}x{% endif %}{% if tools is not none and tools is defined %}y{% endif %}",
    "{% include 'x' %}",
    "{% extends 'x' %}",
    "{% import 'x' as y %}",
    "{% nope %}",
    "{% if x %}",
    "{% endif %}",
    "{{ x",
    "{{ }}",
    "{{ 1 + }}",
    "{{ (1 }}",
    "{{ 1) }}",
    "{% if %}a{% endif %}",
    "{% for in x %}{% endfor %}",
    "{% set 1 = 2 %}",
    "{% set true = 2 %}",
    "{{ 'abc }}",
    "{# open",
    "{% raw %}open",
    "{{ a b }}",
    "{{ a..b }}",
    "{{ f(a=1, 2) }}",
    "{% macro m(a=1, b) %}{% endmacro %}",
    "{{ $ }}",
    "{% else %}",
    "{% for x in l %}{% else %}{% else %}{% endfor %}",
]

WHITESPACE = [
    "a\n{% if true %}\nb\n{% endif %}\nc\n",
    "a\n  {% if true %}  \nb\n  {% endif %}\nc\n\n",
    "a \n {%- if true -%} \n b \n {%- endif -%} \n c",
    "a\n   {%+ if true +%}\nb\n   {% endif +%}\nc",
    "  {{ 'x' }}\n  {{- 'y' -}}\n  z",
    "  {# c #}\na{# c #}\nb{#- c -#}\n c {#+ x +#}\ny",
    "x {# {{ not }} {% this %} #} y {#- multi\nline -#} z",
    "{% raw %}{{ x }}{% if %}{% endraw %}\nafter",
    "a\n  {% raw %}\n  b {{ x }}\n  {% endraw %}\nc {%- raw -%}  d  {%- endraw -%}  e",
    "{% raw -%}  {% x %}  {%- endraw +%}\nq",
    "line1\r\nline2\r{{ 'a\r\nb' }}\r\n",
    "{% for x in l %}\n  {{ x }}\n{% endfor %}\n",
    "{%- for x in l %}\n    {{- x }}\n{%- endfor %}\nend",
    "{% for x in l -%}\n  {{ x }},\n{%- endfor %}",
    "\n\n{% set a = 1 %}\n\n{{ a }}\n\n",
    "   {% set a = 1 %}   x\n \t {% set a = 2 %}\ny",
    "a {% set a = 1 %}\n b",
    "{{ a }}  {% set a = 1 %}\n b",
    "{{ '}}' }}{{ \"%}\" }}{{ {'a': '}}'}['a'] }}",
    "{{-1}}{{- 1 -}}{{ 3-1 }}{{ 3 -1 -}}  x",
    "{%if true%}a{%endif%}{%-if true-%} b {%-endif-%} c",
    "{{ 1 }}\n",
    "{{ 1 }}\n\n",
    "\n",
    "",
    "{ {% if true %}}{% endif %} } %} }} #}",
    "a\u00a0{%- if true %}b{% endif -%}\u3000c",
    "\u00a0 {% if true %}b{% endif %}",
    "{% if true %}\n\n{% endif %}x",
    "{{ 'multi\nline' }}",
    "{% if true\n%}a{%\nendif %}b",
]

EXPRS = LITERALS + OPERATORS + ACCESS + METHODS + FILTERS + TESTS + STATEMENTS + WHITESPACE
