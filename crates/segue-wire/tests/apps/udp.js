'use strict';

require('dgram').createSocket({ type: 'udp4', reuseAddr: true }).bind(+process.env.PORT);
