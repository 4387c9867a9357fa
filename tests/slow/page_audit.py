"""What must hold of the page in every state: contrast, sizes to touch, names to hear, and nobody else asked.

`browser.py` calls `audit` with a tab in the state to be judged. Contrast is WCAG 2.1's: 4.5 for text, 3 for large text and for
what is no text but must be told apart (borders of controls, bars, the ring of focus).
"""

CONTRAST = r"""
(() => {
  const parse = text => {
    const numbers = text.match(/-?[\d.]+(e-?\d+)?/g).map(Number);
    const [r, g, b, a = 1] = numbers;
    return text.startsWith('color(srgb') ? [r * 255, g * 255, b * 255, a] : [r, g, b, a];
  };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3]));
  const light = rgb => {
    const [r, g, b] = rgb.map(value => value / 255).map(value => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, other) => {
    const [a, b] = [light(one), light(other)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const ground = node => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]);
  };
  const judged = [];
  const judge = (what, colour, behind, wanted) =>
    judged.push({ what, ratio: ratio(over(parse(colour), behind), behind), wanted });
  const visible = node => node.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && !node.closest('.unseen, .skip:not(:focus), dialog:not([open])');

  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !visible(node) || ['SCRIPT', 'STYLE', 'TEMPLATE', 'OPTION'].includes(node.tagName)) continue;
    const style = getComputedStyle(node), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    judge(`text "${texts.currentNode.data.trim().slice(0, 40)}"`, style.color, ground(node), large ? 3 : 4.5);
  }
  for (const node of document.querySelectorAll('button:not(.plain, .thumb), select, input')) {
    if (visible(node)) judge(`border of ${node.id || node.className || node.textContent}`, getComputedStyle(node).borderTopColor, ground(node.parentElement), 3);
  }
  for (const node of document.querySelectorAll('.bars i')) {
    if (visible(node)) judge('bar', getComputedStyle(node, '::before').backgroundColor, ground(node), 3);
  }
  for (const node of document.querySelectorAll('.feather, #drop svg')) {
    const style = getComputedStyle(node);
    judge('picture', style.fill === 'none' ? style.stroke : style.fill, ground(node), 3);
  }
  const ring = getComputedStyle(document.activeElement);
  if (document.activeElement !== document.body) judge('ring of focus', ring.outlineColor, ground(document.activeElement.parentElement), 3);
  return judged;
})()
"""

# Controls that a finger must find: where they can be seen, as wide and as high as a fingertip.
SMALL = """
[...document.querySelectorAll('a, button, select, input, summary')]
  .filter(node => node.checkVisibility() && !node.matches('.skip'))
  .map(node => [node.id || node.className || node.textContent, ...(box => [box.width, box.height])(node.getBoundingClientRect())])
  .filter(([, width, height]) => width < 44 || height < 44)
"""

NAMED = {"button", "link", "textbox", "combobox", "progressbar", "image", "heading", "list", "region", "dialog"}


def contrast(tab):
    judged = tab.see(CONTRAST)
    assert any(entry["what"].startswith("text") for entry in judged) and len(judged) > 10, judged
    poor = [entry for entry in judged if entry["ratio"] < entry["wanted"]]
    assert not poor, f"contrast: {poor}"


def names(tab):
    """Everything that a screen reader stops at says what it is."""
    tab.call("Accessibility.enable")
    nodes = [node for node in tab.call("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    roles = {node["role"]["value"] for node in nodes}
    assert {"button", "link", "main", "heading"} <= roles, roles
    nameless = [node["role"]["value"] for node in nodes if node["role"]["value"] in NAMED - {"list"} and not node.get("name", {}).get("value")]
    assert not nameless, f"without a name: {nameless}"


def fits(tab):
    width = tab.see("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1], f"the page is {width[0]} px wide in a window of {width[1]} px"
    small = tab.see(SMALL)
    assert not small, f"too small to touch: {small}"


def asks_nobody_else(tab):
    asked = [event["request"]["url"] for event in tab.events("Network.requestWillBeSent")]
    own = (tab.address + "/", "blob:" + tab.address, "data:")
    outside = [url for url in asked if not url.startswith(own)]
    entries = [url for url in tab.see("performance.getEntriesByType('resource').map(entry => entry.name)") if not url.startswith(own)]
    assert not outside and not entries, f"outside requests: {outside} {entries}"


def audit(tab):
    contrast(tab)
    names(tab)
    fits(tab)
    asks_nobody_else(tab)
