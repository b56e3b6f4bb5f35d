// How the page is put together: headings in order, links within it that lead somewhere, names that are there once.
() => {
  const headings = [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].filter((one) => one.checkVisibility());
  const levels = headings.map((one) => Number(one.tagName[1]));
  const jumps = headings.filter((_, place) => (place ? levels[place] > levels[place - 1] + 1 : levels[0] !== 1));
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  const links = [...document.querySelectorAll("a[href]")].map((one) => one.getAttribute("href"));
  return {
    tops: levels.filter((level) => level === 1).length,
    jumps: jumps.map((one) => one.outerHTML.slice(0, 80)),
    twice: ids.filter((id, place) => ids.indexOf(id) !== place),
    away: links.filter((link) => !/^(#|https:\/\/)/.test(link)),
    within: links.filter((link) => link.startsWith("#")).length,
    broken: links.filter((link) => link.startsWith("#") && !document.getElementById(decodeURIComponent(link.slice(1)))),
  };
}
