"""How a contact sheet looks: light and dark, three pictures a row on a phone."""

STYLE = """
:root { color-scheme: light dark; --ground: #f6f5f2; --card: #fff; --ink: #1d2126; --soft: #5a626b; --line: #dcdad3;
  --good: #17803f; --bad: #c4301c }
@media (prefers-color-scheme: dark) { :root { --ground: #131619; --card: #1b1f23; --ink: #e8e6e1; --soft: #a3abb3;
  --line: #353c43; --good: #45c584; --bad: #ff7a68 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; -webkit-text-size-adjust: 100% }
main { max-width: 76rem; margin: 0 auto; padding: 1.6rem 1rem 4rem }
h1 { font-size: 1.35rem; line-height: 1.3; margin: 0 0 .8rem; overflow-wrap: anywhere }
h2 { font-size: 1rem; margin: 0 0 .15rem; overflow-wrap: anywhere }
p { margin: .1rem 0 .8rem; color: var(--soft); font-size: .9rem; max-width: 48rem; overflow-wrap: anywhere }
.more { margin: .8rem 0 0; font-size: .88rem }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.1rem;
  margin: .9rem 0 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0 0 1rem; font-size: .88rem }
dt { color: var(--soft) } dd { margin: 0; overflow-wrap: anywhere }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .8rem; align-items: start }
figure { margin: 0; min-width: 0 }
img, .absent { display: block; width: 100%; height: auto; border: 4px solid var(--line); border-radius: 6px }
.absent { padding: 1.6rem .3rem; text-align: center; font-size: .78rem; color: var(--soft); overflow-wrap: anywhere }
.good > :first-child { border-color: var(--good) } .good b { color: var(--good) }
.bad > :first-child { border-color: var(--bad); border-style: dashed } .bad b { color: var(--bad) }
figcaption { font-size: .78rem; line-height: 1.35; margin-top: .2rem; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums }
figcaption b { display: block } figcaption span { color: var(--soft) }
@media (max-width: 34rem) { main { padding: 1rem .6rem 3rem } section { padding: .8rem .7rem }
  dl { grid-template-columns: 1fr; gap: 0 } dd { margin-bottom: .45rem }
  .row { grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .45rem } }
"""
