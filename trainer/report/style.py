"""The report's style sheet: one column on a phone, no outside resources."""

STYLE = """
:root { color-scheme: light; --ink: #1f2328; --soft: #59636e; --line: #d9dee3; --blue: #2563a8; --red: #b9442a; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0 0 .4rem; }
header p { color: var(--soft); margin: 0 0 1rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .6rem; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: .6rem .8rem; }
.tile b { display: block; font-size: 1.35rem; }
.tile span { color: var(--soft); font-size: .82rem; line-height: 1.3; display: block; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
.charts svg { width: 100%; height: auto; border: 1px solid var(--line); border-radius: 8px; }
section > .charts > :only-child { max-width: 36rem; }
figure { margin: 0; }
figcaption, small { color: var(--soft); font-size: .82rem; overflow-wrap: anywhere; }
.filters { width: 100%; image-rendering: pixelated; display: block; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
article { border: 1px solid var(--line); border-radius: 8px; padding: .8rem; }
.seen { display: flex; gap: .9rem; }
.seen > img { width: 112px; height: 112px; border-radius: 4px; flex: none; }
.guess { flex: 1; min-width: 0; }
.bar { position: relative; font-size: .82rem; line-height: 1.45rem; margin-bottom: 2px; background: #f3f5f7;
  display: flex; justify-content: space-between; padding: 0 .4rem; border-radius: 3px; overflow: hidden; }
.bar i { position: absolute; inset: 0 auto 0 0; background: #c7d8ea; }
.bar.right i { background: #f0b9a8; }
.bar.right span { font-weight: 600; }
.bar span, .bar em { position: relative; font-style: normal; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
.bar em { flex: none; padding-left: .5rem; color: var(--soft); }
.near { margin-top: .6rem; }
.near div { display: grid; grid-template-columns: repeat(6, 1fr); gap: 4px; }
.near img { width: 100%; aspect-ratio: 1; border-radius: 3px; display: block; }
.near figcaption { font-size: .7rem; line-height: 1.2; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
pre { overflow-x: auto; background: #f6f8fa; padding: .8rem; border-radius: 8px; font-size: .78rem; }
details { margin-bottom: .8rem; }
summary { cursor: pointer; font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
th { font-weight: 500; color: var(--soft); width: 12rem; }
@media (max-width: 34rem) { th { width: 8.5rem; } .seen > img { width: 88px; height: 88px; } }
"""
