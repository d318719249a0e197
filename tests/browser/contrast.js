// Texts on the page whose contrast is below WCAG AA: 4.5, or 3 where the type is large. Answers [text, ratio] pairs.
() => {
  const context = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const background = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const luminance = (colour) => colour
    .map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || text === '·' || element.closest('.unseen, .skip, option, script, style, legend') || !element.checkVisibility({ visibilityProperty: true })) continue;
    if (document.body.classList.contains('dim') && element.closest('.plot')) continue; // dimmed on purpose
    if (element.closest('.bartext')) continue; // stands on a bar; checked below
    const style = getComputedStyle(element);
    const below = background(element.closest('svg') ? element.closest('.plot, h1, button, #empty') : element);
    const ink = over(rgba(element.closest('svg') ? style.fill : style.color), below);
    const [light, dark] = [luminance(ink), luminance(below)].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    const px = parseFloat(style.fontSize);
    const large = px >= 24 || (px >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) faint.push([text.slice(0, 40), Math.round(ratio * 100) / 100]);
  }
  const probe = document.body.appendChild(document.createElement('i'));
  const value = (name) => { probe.style.color = `var(--${name})`; return rgba(getComputedStyle(probe).color).slice(0, 3); };
  for (const stage of ['raise', 'notify', 'serve', 'fill', 'wake', 'reenter']) {
    const ratio = (luminance(value(`stage-${stage}`)) + 0.05) / (luminance(value('ink')) + 0.05);
    if (ratio < 4.5) faint.push([`text on a bar of ${stage}`, ratio]);
  }
  probe.remove();
  return faint;
}
