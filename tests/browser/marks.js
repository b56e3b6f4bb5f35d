// What every plot of the page was given and what it shows: rows of data, and marks in its SVG or on its canvas.
() => {
  const given = JSON.parse(document.getElementById("plots").textContent);
  const drawn = (place) => {
    const canvas = place.querySelector("canvas");
    if (!canvas) { // a line is one mark with many corners
      const marks = [...place.querySelectorAll("svg .role-mark path, svg .role-mark text")];
      return marks.reduce((sum, mark) => sum + (mark.getAttribute("d") ?? "").split(/(?=[MLC])/).length - 1, marks.length);
    }
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const colours = new Map();
    for (let at = 0; at < data.length; at += 4) {
      if (data[at + 3] === 255) {
        const colour = (data[at] << 16) | (data[at + 1] << 8) | data[at + 2];
        colours.set(colour, (colours.get(colour) ?? 0) + 1);
      }
    }
    return [...colours.values()].filter((pixels) => pixels >= 20).length; // areas, not the edges of letters
  };
  return Object.fromEntries(Object.entries(given).map(([name, { data }]) => {
    const place = document.getElementById(`plot-${name}`);
    const rows = Object.entries(data).filter(([set]) => set !== "pins").map(([, some]) => some.length);
    const box = place.getBoundingClientRect();
    return [name, { rows: Math.max(...rows), marks: drawn(place), width: box.width, height: box.height, says: place.querySelector("svg, canvas") ? "" : place.textContent }];
  }));
}
