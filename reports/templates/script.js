(function () {
'use strict';
var $ = function (id) { return document.getElementById(id); };
var make = function (tag, text, name) {
  var e = document.createElement(tag);
  if (text) e.textContent = text;
  if (name) e.className = name;
  return e;
};
var read = function (id) { return JSON.parse($(id).textContent); };

/* Light and dark: the system's choice until the button is used. */
var scheme = $('scheme'), root = document.documentElement;
scheme.hidden = false;
scheme.onclick = function () {
  var now = root.style.colorScheme || (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light');
  root.style.colorScheme = now === 'dark' ? 'light' : 'dark';
};

/* A link to a cell opens it. */
function reveal() {
  var target = location.hash.length > 1 && $(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === 'DETAILS') { target.hidden = false; target.open = true; target.scrollIntoView(); }
}
addEventListener('hashchange', reveal);
document.addEventListener('click', function (event) {
  var link = event.target.closest && event.target.closest('a[href^="#"]');
  if (link && link.hash === location.hash) reveal();
});

/* Commands can be copied. */
document.querySelectorAll('.cmd').forEach(function (box) {
  var button = make('button', 'Copy');
  button.type = 'button';
  button.onclick = function () { copy(box.querySelector('code'), box.querySelector('code').textContent, button); };
  box.appendChild(button);
  var cell = box.parentNode.id && box.parentNode.classList.contains('cell') && box.parentNode;
  if (!cell) return;
  var link = make('button', 'Copy link');
  link.type = 'button';
  link.onclick = function () { copy(cell.querySelector('.id'), location.href.split('#')[0] + '#' + cell.id, link); };
  box.appendChild(link);
});
function copy(shown, text, button) {
  var range = document.createRange(), label = button.textContent;
  range.selectNodeContents(shown);
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, older); else older();
  function older() { if (document.execCommand('copy')) done(); }
  function done() { button.textContent = 'Copied'; setTimeout(function () { button.textContent = label; }, 1500); }
}

/* The matrix by other axes: places and texts were made with the report, only the layout changes. */
var data = read('pivot-data'), form = $('pivot');
var value = function (cell, axis) { return axis < 0 ? 0 : cell.v[axis]; };
function choice(label, names, chosen, into) {
  var box = make('label', label + ' '), select = make('select');
  names.forEach(function (name, index) { var o = make('option', name); o.value = index; select.appendChild(o); });
  select.value = chosen;
  box.appendChild(select);
  (into || form).appendChild(box);
  return select;
}
function slot(cell, metric) {
  var s = cell.s[metric], link = make('a', '', 's' + (s[5] ? ' ' + s[5] : '') + (s[7] ? ' blind' : ''));
  link.href = '#' + cell.a;
  link.title = cell.n + (s[2] ? ': ' + s[2] + ' ' + data.metrics[metric].unit : '');
  link.style.setProperty('--b', s[1]);
  if (s[8]) link.style.setProperty('--d', s[8]);
  link.appendChild(make('b', s[0]));
  var small = make('small');
  if (s[3]) { var glyph = make('span', s[3]); glyph.setAttribute('aria-hidden', 'true'); small.append(glyph, ' '); }
  if (s[6]) { small.append(s[6] + ' '); if (s[4]) small.append(make('i', s[4], 'vh')); }
  else if (s[4] && s[4] !== s[0]) small.append(s[4]);
  if (s[7]) small.append(' ◌ blind');
  link.appendChild(small);
  return link;
}
/* One table of some groups of cells: of one with its title above it, of several with each one's title over its rows. */
function panel(groups, rows, columns, metric) {
  var figure = make('figure', '', 'panel'), caption = make('figcaption'), m = data.metrics[metric];
  var all = [].concat.apply([], groups.map(function (group) { return group[1]; })), alone = groups.length === 1;
  if (alone && groups[0][0]) caption.append(make('b', groups[0][0]), ' · ');
  caption.append(m.label + ' ');
  if (m.unit) caption.append(make('span', '(' + m.unit + ', ' + m.better + ')', 'soft'));
  var scroll = make('div', '', 'scroll'), table = make('table', '', 'matrix' + (bare(metric) ? ' bare' : ''));
  scroll.tabIndex = 0;
  scroll.setAttribute('role', 'region');
  scroll.setAttribute('aria-label', 'Matrix table');
  var used = function (axis, cells) {
    if (axis < 0) return [0];
    return data.axes[axis][1].map(function (_, i) { return i; }).filter(function (i) {
      return cells.some(function (c) { return c.v[axis] === i; });
    });
  };
  var name = function (axis, i) { return axis < 0 ? '' : data.axes[axis][1][i]; };
  var head = table.createTHead().insertRow(), corner = make('th', rows < 0 ? '' : data.axes[rows][0] + ' ');
  corner.scope = 'col';
  if (columns >= 0) corner.append(make('span', '\\ ' + data.axes[columns][0], 'soft'));
  head.appendChild(corner);
  var across = byWorst(used(columns, all), columns, all, metric);
  across.forEach(function (i) { var th = make('th', name(columns, i)); th.scope = 'col'; head.appendChild(th); });
  groups.forEach(function (group) {
    var cells = group[1], body = table.createTBody();
    if (!alone) {
      var title = make('th', '', 'group');
      title.append(make('span', group[0]));
      title.scope = 'rowgroup';
      title.colSpan = across.length + 1;
      body.insertRow().appendChild(title);
    }
    byWorst(used(rows, cells), rows, cells, metric).forEach(function (r) {
      var row = body.insertRow(), th = make('th', name(rows, r));
      th.scope = 'row';
      row.appendChild(th);
      across.forEach(function (c) {
        var place = row.insertCell();
        cells.forEach(function (cell) {
          if (value(cell, rows) === r && value(cell, columns) === c) place.appendChild(slot(cell, metric));
        });
      });
    });
  });
  scroll.appendChild(table);
  figure.append(caption, scroll);
  return figure;
}
/* Whether no cell has more than its figure: nothing was compared. */
function bare(metric) { return data.cells.every(function (cell) { return cell.s[metric].length < 4; }); }
/* How loud a cell is for a metric: its tone, then how much it changed for the worse. */
var LOUD = { bad: 0, warn: 1, good: 2, calm: 3, mute: 4 };
function loudness(cell, metric) {
  var s = cell.s[metric];
  return (s[5] ? LOUD[s[5]] : 3) - (s[7] ? 0.5 : 0) - (s[8] || 0) / 1000;
}
function loudest(cells, metric) { return Math.min.apply(null, cells.map(function (c) { return loudness(c, metric); })); }
function byWorst(values, axis, cells, metric) {
  if (orderSelect.value !== '1' || axis < 0) return values;
  var of = function (i) { return loudest(cells.filter(function (c) { return c.v[axis] === i; }), metric); };
  return values.map(function (i) { return [of(i), i]; }).sort(function (a, b) { return a[0] - b[0] || a[1] - b[1]; })
    .map(function (pair) { return pair[1]; });
}
function layOut() {
  var rows = +rowSelect.value, columns = +columnSelect.value, metric = +metricSelect.value;
  if (rows === columns) columns = -1;
  var groups = new Map();
  data.cells.forEach(function (cell) {
    var title = data.axes.map(function (axis, i) {
      var value = axis[1][cell.v[i]];
      return i === rows || i === columns || value === '–' ? '' : axis[0] + ' ' + value;
    })
      .filter(Boolean).join(' · ');
    if (!groups.has(title)) groups.set(title, []);
    groups.get(title).push(cell);
  });
  var sorted = Array.from(groups);
  if (orderSelect.value === '1') sorted.sort(function (a, b) { return loudest(a[1], metric) - loudest(b[1], metric); });
  var tall = sorted.reduce(function (sum, group) {
    return sum + new Set(group[1].map(function (cell) { return value(cell, rows); })).size;
  }, 0);
  /* Panels of a row or two each are one table, as the page first shows them. */
  var apart = sorted.length <= data.slivers[0] || tall >= data.slivers[1] * sorted.length;
  var tables = apart ? sorted.map(function (group) { return [group]; }) : [sorted];
  $('panels').replaceChildren.apply($('panels'), tables.map(function (groups) { return panel(groups, rows, columns, metric); }));
}
if (data.metrics.length && data.axes.length) {
  form.hidden = false;
  var names = data.axes.map(function (axis) { return axis[0]; });
  var rowSelect = choice('Rows', names, data.shown[0] || 0);
  var columnSelect = choice('Columns', names, data.shown[1] === null ? 0 : data.shown[1]);
  var metricSelect = choice('Figure', data.metrics.map(function (m) { return m.label; }), data.shown[2] || 0);
  var orderSelect = choice('Order', ['as in the scenario', 'worst first'], 0);
  var last = [rowSelect.value, columnSelect.value];
  form.onchange = function (event) {
    /* Choosing the other side's axis swaps the two. */
    if (rowSelect.value === columnSelect.value && names.length > 1) {
      if (event.target === rowSelect) columnSelect.value = last[0]; else rowSelect.value = last[1];
    }
    last = [rowSelect.value, columnSelect.value];
    layOut();
  };
  form.onsubmit = function (event) { event.preventDefault(); };
}

/* Tables sort by a click on their head; a third click restores the order of importance. */
document.querySelectorAll('table.sortable').forEach(function (table) {
  var body = table.tBodies[0], original = Array.from(body.rows), state = [-1, 0];
  var number = function (text) {
    var match = text.replace(/−/g, '-').match(/^[+-]?[\d.]+(e[+-]?\d+)?/);
    return match ? parseFloat(match[0]) : NaN;
  };
  Array.from(table.tHead.rows[0].cells).forEach(function (th, index) {
    var button = make('button', th.textContent), text = th.textContent;
    button.type = 'button';
    th.replaceChildren(button);
    button.onclick = function () {
      var turn = state[0] === index ? (state[1] + 1) % 3 : 1;
      state = [index, turn];
      Array.from(table.tHead.rows[0].cells).forEach(function (other) { other.removeAttribute('aria-sort'); });
      var rows = original.slice();
      if (turn) {
        th.setAttribute('aria-sort', turn === 1 ? 'ascending' : 'descending');
        rows.sort(function (a, b) {
          var x = a.cells[index].textContent, y = b.cells[index].textContent, p = number(x), q = number(y);
          var order = isNaN(p) || isNaN(q) ? (isNaN(p) ? 1 : 0) - (isNaN(q) ? 1 : 0) || x.localeCompare(y) : p - q;
          return turn === 1 ? order : -order;
        });
      }
      button.textContent = text + (turn === 1 ? ' ↑' : turn === 2 ? ' ↓' : '');
      body.append.apply(body, rows);
    };
  });
});

/* Changes by words, and without what is unchanged. */
var narrow = $('narrow'), changes = Array.from(document.querySelectorAll('#changes tbody tr'));
function fits(text, words) { return words.every(function (word) { return text.indexOf(word) >= 0; }); }
function wordsOf(box) { return box.value.toLowerCase().split(/\s+/).filter(Boolean); }
if (narrow) {
  narrow.hidden = changes.length < 2;
  narrow.onsubmit = function (event) { event.preventDefault(); };
  narrow.oninput = function () {
    var words = wordsOf(narrow.q), shown = 0;
    changes.forEach(function (row) {
      row.hidden = !fits(row.textContent.toLowerCase(), words) || (narrow.calm.checked && row.className === 'calmrow');
      if (!row.hidden) shown += 1;
    });
    narrow.querySelector('output').textContent = shown + ' of ' + changes.length + ' shown';
  };
}

/* Trends by words; what is folded away opens while one looks for something. */
var trendFilter = $('trend-filter'), figures = Array.from(document.querySelectorAll('figure.tr'));
if (trendFilter) {
  trendFilter.hidden = figures.length < 2;
  trendFilter.onsubmit = function (event) { event.preventDefault(); };
  trendFilter.oninput = function () {
    var words = wordsOf(trendFilter.q), shown = 0;
    figures.forEach(function (figure) {
      figure.hidden = !fits(figure.textContent.toLowerCase(), words);
      if (!figure.hidden) shown += 1;
    });
    var more = document.querySelector('#trends details.more');
    if (more && words.length) more.open = true;
    trendFilter.querySelector('output').textContent = shown + ' of ' + figures.length + ' shown';
  };
}

/* The numbers behind a trend: a table of its nights, made when it is asked for. */
var whole = null;
figures.forEach(function (figure, index) {
  var button = make('button', 'Values');
  button.type = 'button';
  button.setAttribute('aria-expanded', 'false');
  button.onclick = function () {
    var old = figure.querySelector('.values');
    button.setAttribute('aria-expanded', old ? 'false' : 'true');
    if (old) { old.remove(); return; }
    whole = whole || unpacked();
    var trend = whole.history.trends[index], box = make('div', '', 'scroll values'), table = make('table', '', 'list');
    box.tabIndex = 0;
    box.setAttribute('role', 'region');
    box.setAttribute('aria-label', 'Values of ' + trend.cell);
    var head = table.createTHead().insertRow(), body = table.createTBody();
    ['day', 'run', trend.metric].forEach(function (name) { var th = make('th', name); th.scope = 'col'; head.appendChild(th); });
    trend.values.forEach(function (value, night) {
      var row = body.insertRow();
      [whole.history.nights[night][1], whole.history.nights[night][0], value === null ? '–' : String(value)]
        .forEach(function (text) { row.insertCell().textContent = text; });
      row.lastChild.className = 'n';
    });
    box.appendChild(table);
    figure.appendChild(box);
  };
  figure.querySelector('figcaption').appendChild(button);
});

/* From one cell to any other: the profiles that the page holds, laid out as the pairs above are. */
var fall = $('any-fall'), profiled = [];
function seconds(value) {
  var size = Math.abs(value), unit = size >= 1 ? [1, 's'] : size >= 1e-3 ? [1e3, 'ms'] : [1e6, 'µs'];
  return (value * unit[0]).toPrecision(3).replace('-', '−') + ' ' + unit[1];
}
function classes(cell) {
  var step = cell.figures.filter(function (f) { return f[0] === 'step_seconds'; })[0], all = {}, sum = 0;
  cell.ops.forEach(function (op) { all[op[0]] = op[2]; sum += op[2]; });
  if (step) all['not attributed'] = step[1] - sum;
  return all;
}
function drawFall() {
  var a = profiled[+fromSelect.value], b = profiled[+toSelect.value], from = classes(a), to = classes(b);
  var names = Object.keys(from).concat(Object.keys(to).filter(function (name) { return !(name in from); }));
  var added = function (name) { return (to[name] || 0) - (from[name] || 0); };
  var whole = function (all) { return Object.keys(all).reduce(function (sum, name) { return sum + all[name]; }, 0); };
  names.sort(function (x, y) { return Math.abs(added(y)) - Math.abs(added(x)); });
  var level = whole(from), most = Math.max(level, whole(to)), levels = [level];
  names.forEach(function (name) { level += added(name); levels.push(level); most = Math.max(most, level); });
  var body = $('any-rows');
  body.replaceChildren();
  function row(name, first, second, change, low, high, kind) {
    var tr = body.insertRow(), th = make('th', name);
    th.scope = 'row';
    tr.appendChild(th);
    if (kind === 't') tr.className = 'total';
    [first, second, change].forEach(function (text) { tr.insertCell().textContent = text; });
    var bar = make('i', '', 'bar ' + kind);
    bar.style.setProperty('--l', 1000 * Math.min(low, high) / most);
    bar.style.setProperty('--w', Math.max(1000 * Math.abs(high - low) / most, 3));
    tr.insertCell().appendChild(bar);
  }
  row(a.name, seconds(whole(from)), '', '', 0, whole(from), 't');
  names.forEach(function (name, i) {
    var change = added(name);
    row(name, seconds(from[name] || 0), seconds(to[name] || 0), (change > 0 ? '+' : '') + seconds(change), levels[i], levels[i + 1], change > 0 ? 'up' : 'down');
  });
  row(b.name, '', seconds(whole(to)), '', 0, whole(to), 't');
}
if (fall) {
  fall.hidden = false;
  var form2 = fall.querySelector('form'), fromSelect, toSelect;
  /* The data is read when it is asked for: a large report opens faster without. */
  fall.ontoggle = function () {
    if (!fall.open || profiled.length) return;
    profiled = read('report-data').cells.filter(function (cell) { return cell.ops.length; });
    var names = profiled.map(function (cell) { return cell.name; });
    fromSelect = choice('From', names, 0, form2);
    toSelect = choice('To', names, Math.min(1, names.length - 1), form2);
    form2.hidden = false;
    form2.onchange = drawFall;
    form2.onsubmit = function (event) { event.preventDefault(); };
    if (names.length) drawFall();
  };
}

/* Cells by words, without what is unchanged, in an order of choice. */
var filter = $('filter'), cells = Array.from(document.querySelectorAll('details.cell'));
filter.hidden = cells.length < 2;
filter.onsubmit = function (event) { event.preventDefault(); };
filter.oninput = function () {
  var words = wordsOf(filter.q), shown = 0;
  cells.forEach(function (cell) {
    cell.hidden = !fits(cell.firstElementChild.textContent.toLowerCase(), words) || (filter.calm.checked && cell.dataset.t === 'calm');
    if (!cell.hidden) shown += 1;
  });
  filter.querySelector('output').textContent = shown + ' of ' + cells.length + ' shown';
};
var sort = filter.elements.sort, places = new Map();
data.cells.forEach(function (cell, i) { places.set(cell.a, [i, cell]); });
sort.onchange = function () {
  var metric = data.shown[2], how = sort.value;
  var key = function (details) {
    var place = places.get(details.id);
    if (how === 'scenario' || metric === null || !place) return place ? place[0] : 0;
    return how === 'worst' ? loudness(place[1], metric) : -place[1].s[metric][1];
  };
  cells.map(function (cell) { return [key(cell), cell]; }).sort(function (a, b) { return a[0] - b[0]; })
    .forEach(function (pair) { filter.parentNode.appendChild(pair[1]); });
};
filter.elements.open.onclick = function () {
  var open = cells.some(function (cell) { return !cell.hidden && !cell.open; });
  cells.forEach(function (cell) { if (!cell.hidden) cell.open = open; });
  filter.elements.open.textContent = open ? 'Close all' : 'Open all';
};

/* The data as a file: the keys that the page leaves out of its lists are put back. */
function unpacked() {
  var all = read('report-data');
  var keys = { figures: ['metric', 'point', 'low', 'high', 'confidence', 'rounds', 'samples'], ops: ['class', 'count', 'seconds', 'flops', 'bytes', 'least_seconds'] };
  all.cells.forEach(function (cell) {
    Object.keys(keys).forEach(function (list) {
      cell[list] = cell[list].map(function (row) {
        var item = {};
        keys[list].forEach(function (key, i) { item[key] = row[i]; });
        return item;
      });
    });
  });
  if (all.history) all.history.trends.forEach(function (trend) {
    var power = Math.pow(10, trend.values.shift()), level = 0;
    trend.values = trend.values.map(function (step) { return step === null ? null : +((level += step) * power).toPrecision(12); });
  });
  return all;
}
var save = make('button', 'Download this report’s data (JSON)');
save.type = 'button';
save.onclick = function () {
  var link = make('a');
  link.href = URL.createObjectURL(new Blob([JSON.stringify(unpacked(), null, 1)], { type: 'application/json' }));
  link.download = 'stepwatch-report.json';
  link.click();
};
$('download').replaceChildren(save);
reveal();
})();
