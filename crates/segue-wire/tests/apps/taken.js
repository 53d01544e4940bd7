'use strict';

require('http')
  .createServer()
  .on('error', (error) => process.send(error.code))
  .listen(+process.env.PORT);
