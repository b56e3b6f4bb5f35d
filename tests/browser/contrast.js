// Texts that are hard to read: the WCAG contrast of every visible text against what lies behind it.
// A text in SVG lies on shapes, and one in HTML on the backgrounds of whatever is stacked there, so that the browser is
// asked for the stack at the middle of the text. Nothing is assumed of how the page is made, but that texts whose
// elements have the same names and classes, up to the root, look alike: of those, the first few are looked at.
(least) => {
  const FEW = 12;
  const pixel = Object.assign(document.createElement("canvas"), { width: 1, height: 1 })
    .getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const rgba = (color) => {
    if (!known.has(color)) {
      pixel.clearRect(0, 0, 1, 1);
      pixel.fillStyle = color;
      pixel.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = pixel.getImageData(0, 0, 1, 1).data;
      known.set(color, [r, g, b, a / 255]);
    }
    return known.get(color);
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const luminance = ([r, g, b]) => {
    const [R, G, B] = [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * R + 0.7152 * G + 0.0722 * B;
  };
  const opacity = (element) => {
    let product = 1;
    for (let at = element; at; at = at.parentElement) product *= Number(getComputedStyle(at).opacity);
    return product;
  };
  const isSvg = (element) => element instanceof SVGElement && !(element instanceof SVGSVGElement);
  const paint = (element, isText) => {
    const style = getComputedStyle(element);
    const [color, alpha] = isSvg(element)
      ? [style.fill, Number(style.fillOpacity)] : [isText ? style.color : style.backgroundColor, 1];
    if (color === "none") return [0, 0, 0, 0];
    const [r, g, b, a] = rgba(color);
    return [r, g, b, a * alpha * opacity(element)];
  };

  // What lets the pointer through would be missing from the stack.
  const sheet = new CSSStyleSheet();
  sheet.replaceSync("* { pointer-events: auto !important } svg * { pointer-events: visiblePainted !important }");
  document.adoptedStyleSheets.push(sheet);
  const probe = document.body.appendChild(document.createElement("div"));
  probe.style.background = "Canvas"; // what is seen where nothing has a background, in light and dark
  const canvas = rgba(getComputedStyle(probe).backgroundColor);
  probe.remove();

  const alike = new Map();
  const isOneOfMany = (element) => {
    let path = "";
    for (let at = element; at; at = at.parentElement) path += `${at.tagName}.${at.getAttribute("class") ?? ""} `;
    alike.set(path, (alike.get(path) ?? 0) + 1);
    return alike.get(path) > FEW;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const texts = [];
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const owner = node.parentElement;
    if (!node.data.trim() || !owner.checkVisibility({ opacityProperty: true, visibilityProperty: true }) || isOneOfMany(owner)) continue;
    texts.push([node, owner]);
  }
  const low = [], unseen = [];
  let checked = 0;
  for (const [node, owner] of texts) {
    const range = document.createRange();
    range.selectNodeContents(node);
    const stack = () => { // empty where the middle of the text is clipped, or out of the window
      const box = [...range.getClientRects()].find((one) => one.width > 1 && one.height > 1);
      if (!box) return null;
      const found = document.elementsFromPoint(box.left + box.width / 2, box.top + box.height / 2);
      return found.includes(owner) ? found.slice(found.indexOf(owner)) : [];
    };
    let layers = stack();
    if (layers?.length === 0) {
      owner.scrollIntoView({ block: "center", inline: "center", behavior: "instant" });
      layers = stack();
    }
    if (!layers) continue;
    if (!layers.length) {
      unseen.push(`<${owner.tagName} ${owner.getAttribute("class") ?? ""}> ${node.data.trim().slice(0, 60)}`);
      continue;
    }
    let behind = canvas;
    for (const element of layers.reverse()) {
      if (!(element === owner && isSvg(owner))) behind = over(paint(element, false), behind);
    }
    const ahead = over(paint(owner, true), behind);
    const [light, dark] = [luminance(ahead), luminance(behind)].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    checked += 1;
    if (ratio < least) {
      const hex = (color) => `rgb(${color.slice(0, 3).map(Math.round)})`;
      low.push(`${ratio.toFixed(2)} ${hex(ahead)} on ${hex(behind)}: <${owner.tagName} ${owner.getAttribute("class") ?? ""}> ${node.data.trim().slice(0, 60)}`);
    }
  }
  document.adoptedStyleSheets.pop();
  scrollTo(0, 0);
  return { checked, low, unseen };
}
