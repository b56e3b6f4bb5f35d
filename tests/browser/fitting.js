// Waits until every plot is as wide as its place, which it is some frames after the window has changed.
() => new Promise((done, fail) => {
  let frames = 0;
  const look = () => {
    const wide = [...document.querySelectorAll(".plot > :is(svg, canvas)")].filter(
      (plot) => plot.getBoundingClientRect().width > plot.parentElement.getBoundingClientRect().width + 1,
    );
    if (!wide.length) done();
    else if (++frames > 600) fail(new Error(`wider than its place: ${wide[0].parentElement.id}`));
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})
