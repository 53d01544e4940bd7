'use strict';

require('https').createServer({}).listen(+process.env.PORT);
