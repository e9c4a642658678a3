/* A reader of the report: every step throws what it found wrong, and what was found stands in #verdict. */
(function () {
  var all = function (query) { return Array.from(document.querySelectorAll(query)); };
  var shown = function (e) { return !e.hidden && e.getClientRects().length > 0; };
  var must = function (fact, what) { if (!fact) throw new Error(what); };
  var choose = function (form, label, value) {
    var select = all('#' + form + ' label').filter(function (l) { return l.textContent.indexOf(label) === 0; })[0].querySelector('select');
    var option = Array.from(select.options).filter(function (o) { return o.textContent === value; })[0];
    must(option, label + ' has no ' + value);
    select.value = option.value;
    select.dispatchEvent(new Event('change', { bubbles: true }));
  };
  var type = function (form, text) {
    var box = document.querySelector('#' + form + ' [name=q]');
    box.value = text;
    box.dispatchEvent(new Event('input', { bubbles: true }));
  };
  var steps = {
    'nothing is asked of the network': function () { must(performance.getEntriesByType('resource').length === 0, 'a resource'); },
    'the matrix pivots': function () {
      choose('pivot', 'Rows', 'kind');
      choose('pivot', 'Columns', 'size');
      var heads = all('.matrix').map(function (t) { return t.rows[0].cells[0].textContent; });
      must(heads.every(function (h) { return h === 'kind \\ size'; }), heads.join());
      must(all('.matrix th[scope=row]').some(function (th) { return th.textContent === 'a<b>'; }), 'no row a<b>');
      choose('pivot', 'Columns', 'kind');
      must(all('.matrix')[0].rows[0].cells[0].textContent === 'size \\ kind', 'the other side swaps');
      choose('pivot', 'Figure', 'step seconds');
      must(all('.panel figcaption')[0].textContent.indexOf('step seconds') >= 0, 'the figure changes');
      choose('pivot', 'Figure', 'rate');
    },
    'the worst comes first': function () {
      choose('pivot', 'Order', 'worst first');
      must(all('.matrix .s')[0].classList.contains('bad'), 'the first place is not bad');
    },
    'tables sort': function () {
      var table = document.querySelector('#changes table'), column = 3;
      var button = table.tHead.rows[0].cells[column].querySelector('button');
      var numbers = function () {
        return Array.from(table.tBodies[0].rows).map(function (r) { return parseFloat(r.cells[column].textContent.replace('−', '-')); })
          .filter(function (n) { return !isNaN(n); });
      };
      var original = Array.from(table.tBodies[0].rows);
      button.click();
      var up = numbers();
      must(up.length > 3 && up.every(function (n, i) { return i === 0 || up[i - 1] <= n; }), 'ascending ' + up);
      must(table.tHead.rows[0].cells[column].getAttribute('aria-sort') === 'ascending', 'aria-sort');
      button.click();
      var down = numbers();
      must(down.every(function (n, i) { return i === 0 || down[i - 1] >= n; }), 'descending ' + down);
      button.click();
      must(Array.from(table.tBodies[0].rows).every(function (r, i) { return r === original[i]; }), 'the order of importance comes back');
    },
    'changes are filtered': function () {
      var before = all('#changes tbody tr').filter(shown).length;
      document.querySelector('#narrow [name=calm]').click();
      var after = all('#changes tbody tr').filter(shown).length;
      must(after > 0 && after < before, before + ' and ' + after);
      document.querySelector('#narrow [name=calm]').click();
      type('narrow', 'regressed a-b');
      must(all('#changes tbody tr').filter(shown).every(function (r) { return /regressed/.test(r.textContent); }), 'words');
      type('narrow', '');
    },
    'cells are filtered and ordered': function () {
      var cells = all('details.cell').length;
      type('filter', 'tiny fp32');
      must(all('details.cell').filter(shown).length === 2, all('details.cell').filter(shown).length + ' cells');
      must(document.querySelector('#filter output').textContent === '2 of ' + cells + ' shown', 'the count');
      type('filter', '');
      var sort = document.querySelector('#filter [name=sort]');
      sort.value = 'worst';
      sort.dispatchEvent(new Event('change', { bubbles: true }));
      must(/bad/.test(all('details.cell')[0].dataset.t), 'the worst is not first');
    },
    'a link opens its cell': function () {
      var link = all('.matrix .s')[0], cell = document.getElementById(link.hash.slice(1));
      must(cell && !cell.open, 'closed before');
      link.click();
      return new Promise(function (done) { setTimeout(done, 50); }).then(function () { must(cell.open, 'not opened'); });
    },
    'any two profiled cells make a waterfall': function () {
      var fall = document.getElementById('any-fall');
      fall.open = true;
      return new Promise(function (done) { setTimeout(done, 50); }).then(function () {
        choose('any-fall', 'To', document.querySelectorAll('#any-fall select')[1].options[2].textContent);
        var rows = Array.from(document.getElementById('any-rows').rows);
        must(rows.length > 3, rows.length + ' rows');
        must(rows[0].className === 'total' && rows[rows.length - 1].className === 'total', 'totals at both ends');
      });
    },
    'trends are filtered': function () {
      must(all('figure.tr').length === 4, all('figure.tr').length + ' trends');
      type('trend-filter', 'nothing has this name');
      must(all('figure.tr').filter(shown).length === 0, 'words');
      type('trend-filter', '');
    },
    'a trend shows its values': function () {
      var figure = all('figure.tr')[0], button = figure.querySelector('button');
      button.click();
      must(figure.querySelectorAll('.values tbody tr').length === 21, 'one row a night');
      must(button.getAttribute('aria-expanded') === 'true', 'it says that it is open');
      button.click();
      must(!figure.querySelector('.values'), 'it folds again');
    },
    'the data is whole': function () {
      var blob, make = URL.createObjectURL;
      URL.createObjectURL = function (b) { blob = b; return '#'; };
      document.querySelector('#download button').click();
      URL.createObjectURL = make;
      return blob.text().then(function (text) {
        var data = JSON.parse(text), figure = data.cells[0].figures.filter(function (f) { return f.metric === 'rate'; })[0];
        must(data.schema === 'stepwatch-report/1' && figure && figure.rounds.length === 2, JSON.stringify(data.cells[0].figures));
        must(data.cells.some(function (c) { return c.ops.length && c.ops[0].class && c.ops[0].seconds > 0; }), 'ops');
        var values = data.history.trends[0].values;
        must(values.length === 21 && Math.abs(values[0] / figure.point / 1.1111 - 1) < 0.01, values.join());
      });
    },
    'everything is reached by keyboard and named': function () {
      all('a[href], button, select, input, summary').filter(shown).forEach(function (e) {
        must(e.tabIndex >= 0, e.outerHTML.slice(0, 90) + ' is skipped');
        must(e.textContent.trim() || e.getAttribute('aria-label') || e.closest('label'), e.outerHTML.slice(0, 90) + ' has no name');
      });
      all('svg').forEach(function (svg) {
        must(svg.getAttribute('aria-hidden') === 'true' || svg.getAttribute('aria-label'), svg.outerHTML.slice(0, 90) + ' is not told');
      });
      all('table').forEach(function (t) { must(t.querySelector('th'), 'a table without heads'); });
      must(document.documentElement.lang === 'en' && document.querySelectorAll('h1').length === 1, 'language and title');
    },
    'nothing runs over the window': function () {
      must(document.documentElement.scrollWidth <= innerWidth, document.documentElement.scrollWidth + ' of ' + innerWidth);
    },
  };
  var said = [];
  addEventListener('error', function (event) { said.push('error: ' + event.message); });
  Object.keys(steps).reduce(function (before, name) {
    return before.then(steps[name]).catch(function (error) { said.push(name + ': ' + error.message); });
  }, Promise.resolve()).then(function () {
    document.getElementById('verdict').textContent = said.length ? said.join('\n') : 'all ' + Object.keys(steps).length + ' steps hold';
  });
})();
