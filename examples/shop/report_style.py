"""Style: the CSS of the report, in light and dark, for desks and telephones."""

STYLE = """
:root { --ground:#f6f5f1; --card:#fff; --ink:#1c2127; --soft:#5b646e; --line:#dfddd6; --accent:#2459c4;
  --pale:#9db6ea; --teacher:#8c949d; --good:#18824c; --bad:#c8321f; --unknown:#8b9299; --shade:#eef2fb; --sat:60%;
  --lum:52% }
@media (prefers-color-scheme: dark) { :root { --ground:#121518; --card:#1a1e22; --ink:#e9e7e2; --soft:#a0a9b2;
  --line:#333a41; --accent:#79a5ff; --pale:#3d5a94; --teacher:#7b858f; --good:#41c482; --bad:#ff7565;
  --unknown:#848d96; --shade:#202a3d; --sat:52%; --lum:58% } }
* { box-sizing:border-box }
body { margin:0; background:var(--ground); color:var(--ink); font:16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif;
  -webkit-text-size-adjust:100% }
main { max-width:68rem; margin:0 auto; padding:2rem 1.1rem 4rem }
h1 { font-size:1.05rem; font-weight:600; color:var(--soft); margin:0 0 .6rem }
h2 { font-size:1.3rem; line-height:1.25; margin:0 0 .7rem } h3 { font-size:1rem; margin:1.6rem 0 .4rem }
p { margin:.4rem 0 .8rem; max-width:46rem } li { max-width:46rem; margin:.25rem 0 } ol, ul { padding-left:1.3rem }
.headline { font-size:1.5rem; line-height:1.35; font-weight:600; max-width:none; margin:0 0 1.4rem;
  text-wrap:pretty }
.soft, figcaption { color:var(--soft); font-size:.9rem } .bad { color:var(--bad) } .good { color:var(--good) }
section { background:var(--card); border:1px solid var(--line); border-radius:12px; padding:1.3rem 1.4rem;
  margin:1.1rem 0 }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(11rem,1fr)); gap:.8rem }
.tile { background:var(--card); border:1px solid var(--line); border-radius:12px; padding:.85rem 1rem }
.tile b { display:block; font-size:1.75rem; line-height:1.2; font-weight:650; letter-spacing:-.01em }
.tile span { display:block; color:var(--soft); font-size:.88rem }
.scroll { overflow-x:auto; margin:.4rem 0 .8rem }
table { border-collapse:collapse; width:100%; font-size:.93rem; font-variant-numeric:tabular-nums }
th { text-align:left; color:var(--soft); font-weight:600; font-size:.82rem; vertical-align:bottom }
th, td { padding:.42rem .7rem .42rem 0; border-bottom:1px solid var(--line); white-space:nowrap }
th.number, td.number { text-align:right; padding-right:0; padding-left:.9rem } tr.marked td { font-weight:650;
  background:var(--shade) } tr.marked td:first-child { box-shadow:-.5rem 0 0 var(--shade) }
.charts { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr)); gap:1.2rem 2rem }
figure { margin:0 } figcaption b { color:var(--ink) }
svg { display:block; width:100%; height:auto; overflow:visible } svg.wide { max-width:28rem }
svg text { font:12px system-ui, "Segoe UI", Roboto, sans-serif; fill:var(--soft) }
svg text.strong { fill:var(--ink); font-weight:600 }
.grid { stroke:var(--line) } .curve { fill:none; stroke:var(--accent); stroke-width:2; stroke-linejoin:round }
.dot { fill:var(--accent) } .limit { stroke:var(--ink); stroke-width:1.5; stroke-dasharray:4 3 }
.f-accent { fill:var(--accent) } .f-pale { fill:var(--pale) } .f-teacher { fill:var(--teacher) }
.f-good { fill:var(--good) } .f-bad { fill:var(--bad) } .f-unknown { fill:var(--unknown) } .f-line { fill:var(--line) }
.half { fill-opacity:.62 }
.ranking { display:grid; grid-template-columns:repeat(6,minmax(0,1fr)); gap:.5rem; margin:.3rem 0 1.2rem;
  max-width:56rem }
.shot img { display:block; width:100%; height:auto; border-radius:6px; border:3px solid transparent }
.shot.query img { border-color:var(--line) } .shot.right img { border-color:var(--good) }
.shot.wrong img { border-color:var(--bad) } .shot.missed img { border-color:var(--unknown) }
.shot figcaption { font-size:.78rem; line-height:1.35; margin-top:.25rem; overflow-wrap:anywhere }
.ranked { margin:1rem 0 0; font-size:.92rem } .ranked code { font-weight:600 }
.pairs { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr)); gap:1.2rem 1.6rem }
.pair .row { display:grid; grid-template-columns:repeat(3,minmax(0,1fr)); gap:.4rem }
.frames { display:grid; grid-template-columns:repeat(auto-fill,minmax(14.5rem,1fr)); gap:1rem .9rem }
.strip { display:grid; grid-template-columns:4.2rem 1fr; gap:.25rem .6rem; align-items:center; font-size:.85rem;
  color:var(--soft) } .strip svg { height:1.5rem; border-radius:3px }
.axis { display:flex; justify-content:space-between; font-size:.78rem }
.legend { margin-right:1em }
.chip { display:inline-block; width:.8em; height:.8em; border-radius:3px; margin-right:.45em; vertical-align:-.05em }
code, pre { font:.88em/1.5 ui-monospace, SFMono-Regular, Menlo, monospace } pre { overflow-x:auto; padding:.6rem .8rem;
  background:var(--ground); border-radius:8px; margin:.3rem 0 } summary { cursor:pointer; color:var(--accent) }
video { width:100%; max-width:40rem; border-radius:8px } a { color:var(--accent) }
@media (max-width:40rem) { main { padding:1.1rem .7rem 3rem } section { padding:1rem .9rem } .headline {
  font-size:1.2rem } .ranking { grid-template-columns:repeat(3,minmax(0,1fr)) } .tiles {
  grid-template-columns:1fr 1fr } .tile b { font-size:1.35rem } .strip { grid-template-columns:3.4rem 1fr }
  .frames { grid-template-columns:1fr 1fr } table { font-size:.84rem } th, td:first-child { white-space:normal }
  .scroll td:first-child,
  .scroll th:first-child { position:sticky; left:0; background:var(--card) } .scroll tr.marked td:first-child {
  background:var(--shade); box-shadow:none }
  th.number, td.number { padding-left:.6rem } }
"""
